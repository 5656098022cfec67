"""From a checkpoint of the original PyTorch programs to a run directory."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion_jax.config import ExperimentConfig, TokenizerConfig
from diffusion_jax.convert.families import (
    LENGTHS,
    EmbeddingSource,
    Family,
    check_not_a_stranger,
    choose_family,
    published_config,
)
from diffusion_jax.convert.names import (
    EMBEDDING,
    TIED_EMBEDDING,
    from_original,
    infer_spec,
    original_shapes,
)
from diffusion_jax.convert.runs import write_run
from diffusion_jax.convert.torch_io import read_state_dict
from diffusion_jax.errors import UserError
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.text.files import read_lines
from diffusion_jax.text.tokenizers import Tokenizer, build_tokenizer
from diffusion_jax.types import Params
from diffusion_jax.workdir import Workdir

# Buffers that hold no parameters.
_IGNORED = {"position_ids"}
_SOURCES: dict[EmbeddingSource, str] = {
    "lm_head": TIED_EMBEDDING,
    "word_embedding": EMBEDDING,
}


@dataclass(frozen=True)
class Original:
    """An original checkpoint, checked and rearranged.

    Attributes:
        spec: the network.
        params: its parameters, float32 NumPy arrays.
        embedding_source: which of the two stored embedding tables was taken.
        embedding_gap: largest absolute difference between the two tables.
        step: updates made, going by the digits at the end of the file's name; 0 without any.
    """

    spec: DenoiserConfig
    params: Params
    embedding_source: EmbeddingSource
    embedding_gap: float
    step: int


@dataclass(frozen=True)
class Conversion:
    """What was converted, and to what.

    Attributes:
        family: which of the published systems it is.
        original: the checkpoint.
        config: the configuration of the new run.
    """

    family: Family
    original: Original
    config: ExperimentConfig


def convert_original(
    path: str | Path,
    workdir: str | Path,
    vocab_file: str | Path,
    *,
    family: Family | None = None,
    num_heads: int | None = None,
    embedding_source: EmbeddingSource = "lm_head",
    length: int | None = None,
) -> Conversion:
    """Write a run directory from a ``.pt`` file of Diffusion-LM, DiffuSeq or DiffuSeq-v2.

    Args:
        path: e.g. ``ema_0.9999_200000.pt``.
        workdir: the run directory to write, new or empty.
        vocab_file: the vocabulary it was trained with: Diffusion-LM's ``vocab.json``, BERT's
            ``vocab.txt``, or a list of words.
        family: which system; None infers it (see ``choose_family``).
        num_heads: attention heads; None takes heads of width 64.
        embedding_source: see ``read_original``.
        length: row length L; None takes the published one, 64 or 128.

    Raises:
        UserError: anything wrong with the files or the options; nothing is written.
    """
    directory = Workdir(workdir)
    directory.check_unused()
    tokenizer, tokenizer_config = _read_vocabulary(vocab_file)
    original = read_original(path, num_heads=num_heads, embedding_source=embedding_source)
    family = choose_family(family, original.spec.mean_embed, str(vocab_file))
    config = published_config(
        family,
        original.spec,
        length=LENGTHS[family] if length is None else length,
        tokenizer=tokenizer_config,
        origin=Path(path).name,
        step=original.step,
    )
    record = {"converted_from": Path(path).name, "embedding_source": embedding_source}
    write_run(directory, config, tokenizer, original.params, step=original.step, record=record)
    return Conversion(family, original, config)


def read_original(
    path: str | Path,
    *,
    num_heads: int | None = None,
    embedding_source: EmbeddingSource = "lm_head",
) -> Original:
    """Read and check a ``.pt`` file of Diffusion-LM, DiffuSeq or DiffuSeq-v2.

    The embedding table is stored twice, and in files of averaged parameters the two differ: only
    ``word_embedding.weight`` was averaged, ``lm_head.weight`` is the raw table. The original
    programs tie the two when they load them and end up with the raw one, so that ``"lm_head"``
    samples what they sample, and ``"word_embedding"`` what they meant to.

    Args:
        path: the file.
        num_heads: attention heads; None takes heads of width 64.
        embedding_source: which of the two tables to take.

    Raises:
        UserError: the file cannot be read, or is not such a checkpoint.
    """
    if embedding_source not in _SOURCES:
        raise UserError(
            f"embedding_source is {embedding_source!r}; choose one of {', '.join(_SOURCES)}"
        )
    arrays = read_state_dict(path)
    try:
        check_not_a_stranger(arrays)
        spec = infer_spec(arrays, num_heads)
        _check_arrays(arrays, original_shapes(spec))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    arrays = {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}
    gap = float(np.max(np.abs(arrays[TIED_EMBEDDING] - arrays[EMBEDDING])))
    taken = {**arrays, EMBEDDING: arrays[_SOURCES[embedding_source]]}
    return Original(spec, from_original(taken, spec), embedding_source, gap, _step_of(path))


def _check_arrays(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError listing every array that is missing, unexpected, misshapen, not finite."""
    problems = []
    if missing := [name for name in shapes if name not in arrays]:
        problems.append(f"missing: {_listed(missing)}")
    if unexpected := [name for name in arrays if name not in shapes and name not in _IGNORED]:
        problems.append(f"unexpected: {_listed(unexpected)}")
    present = [name for name in shapes if name in arrays]
    if wrong := [
        f"{name} is {list(arrays[name].shape)} and must be {list(shapes[name])}"
        for name in present
        if arrays[name].shape != shapes[name]
    ]:
        problems.append(f"of another shape: {_listed(wrong)}")
    if broken := [name for name in present if not _is_finite(arrays[name])]:
        problems.append(f"not finite numbers: {_listed(broken)}")
    if problems:
        raise UserError(
            "the arrays are not those of Diffusion-LM's or DiffuSeq's Transformer; "
            + "; ".join(problems)
        )


def _is_finite(array: np.ndarray) -> bool:
    return np.issubdtype(array.dtype, np.floating) and bool(np.isfinite(array).all())


def _listed(items: list[str], most: int = 20) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest


def _step_of(path: str | Path) -> int:
    digits = re.search(r"(\d+)$", Path(path).stem)
    # The originals write six digits or more; what does not fit a step counter is no step.
    return int(digits[1]) if digits and len(digits[1]) <= 9 else 0


def _read_vocabulary(path: str | Path) -> tuple[Tokenizer, TokenizerConfig]:
    """Read a vocabulary in any published form: which one shows in the file itself."""
    file = Path(path)
    is_bert = file.suffix != ".json" and any(line == "[CLS]" for _, line in read_lines(file))
    kind = "wordpiece" if is_bert else "word"
    return build_tokenizer(kind, vocab_file=file), TokenizerConfig(kind=kind, vocab_file=str(file))
