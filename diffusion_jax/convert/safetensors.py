"""A trained model as one directory to share: safetensors, tokenizer, model card.

    DIRECTORY/model.safetensors   the parameters, float32; configuration and step in its metadata
              tokenizer/          plain files, see text.tokenizers
              README.md           the model card

A safetensors file is a JSON header and raw numbers: reading one cannot run code. Needs the extra
``share``.
"""

import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from diffusion_jax.config import ExperimentConfig
from diffusion_jax.config_io import from_json
from diffusion_jax.convert.card import model_card
from diffusion_jax.convert.runs import write_run
from diffusion_jax.errors import UserError
from diffusion_jax.models.transformer import transformer_denoiser
from diffusion_jax.text.files import check_file
from diffusion_jax.text.tokenizers import load_tokenizer
from diffusion_jax.types import Params
from diffusion_jax.workdir import Workdir, weights_name

MODEL_FILE = "model.safetensors"
CARD_FILE = "README.md"
TOKENIZER_DIR = "tokenizer"
_FORMAT = "diffusion_jax"
_MAX_STEP = 2**31 - 1
_NEEDED = ("config", "step", "tokenizer")


class Shared(NamedTuple):
    """What a safetensors file of this program holds.

    Attributes:
        params: the parameters, NumPy arrays.
        config: the configuration, complete, without averages.
        step: updates made.
        fingerprint: of the tokenizer.
    """

    params: Params
    config: ExperimentConfig
    step: int
    fingerprint: str


def export_run(
    run: str | Path, path: str | Path, *, weights: str = "ema", step: int | None = None
) -> Path:
    """Write a run's parameters as safetensors, tokenizer and model card beside them.

    Args:
        run: a run directory.
        path: the file to write, ``NAME.safetensors``, in a directory of its own; the directory is
            made where it does not exist.
        weights: "ema" (the first averaged rate), "ema RATE" or "params" (not averaged).
        step: which checkpoint; None means the newest that is intact.

    Returns:
        The path of the file.

    Raises:
        UserError: the run cannot be read, files would be overwritten, or its chains need more of
            the checkpoint than parameters.
    """
    numpy_format = _library().numpy
    path = Path(path)
    _check_target(path)
    workdir = Workdir(run)
    config = workdir.read_config()
    options = config.diffusion
    if options.timestep_sampler == "time_warp" or options.position_schedule == "adaptive":
        raise UserError(
            f"chains of {run} follow what its timestep sampler learned (time_warp or adaptive "
            "positions), which lies beside the parameters in its checkpoint; safetensors would "
            "lose it, so copy the run directory"
        )
    tokenizer = workdir.read_tokenizer()
    weights = weights_name(config, weights)
    params, step = workdir.checkpoints().restore_params(weights, step=step)
    config = _to_share(config)
    tokenizer.save(path.parent / TOKENIZER_DIR)
    card = model_card(config, path.name, num_parameters=_size(params), step=step, weights=weights)
    (path.parent / CARD_FILE).write_text(card, encoding="utf-8")
    metadata = {
        "format": _FORMAT,
        "config": config.to_json(),
        "step": str(step),
        "tokenizer": tokenizer.fingerprint(),
    }
    # Written under another name first: a file of this name is a whole one.
    unfinished = path.with_name(path.name + ".tmp")
    arrays = flatten_dict(jax.tree.map(_contiguous, params), sep=".")
    numpy_format.save_file(arrays, unfinished, metadata=metadata)
    os.replace(unfinished, path)
    return path


def import_run(path: str | Path, workdir: str | Path) -> Shared:
    """Write a run directory from what ``export_run`` wrote.

    Args:
        path: the safetensors file; ``tokenizer/`` must lie beside it.
        workdir: the run directory to write, new or empty.

    Returns:
        What the file holds.

    Raises:
        UserError: anything wrong with the files; nothing is written.
    """
    directory = Workdir(workdir)
    directory.check_unused()
    shared = read_safetensors(path)
    beside = Path(path).parent / TOKENIZER_DIR
    tokenizer = load_tokenizer(beside, fingerprint=shared.fingerprint)
    record = {"converted_from": Path(path).name}
    write_run(directory, shared.config, tokenizer, shared.params, step=shared.step, record=record)
    return shared


def read_safetensors(path: str | Path) -> Shared:
    """Read and check a safetensors file that ``export_run`` wrote.

    Raises:
        UserError: the file is damaged, of another program, its arrays are not those of the
            network that its configuration describes, or hold numbers that are not finite.
    """
    library = _library()
    path = check_file(path)
    try:
        with library.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_metadata(metadata)
            config = from_json(metadata["config"])
            _check_arrays(config, {name: file.get_slice(name) for name in file.keys()})  # noqa: SIM118
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            _check_finite(arrays)
    except library.SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    params = unflatten_dict(arrays, sep=".")
    return Shared(params, config, int(metadata["step"]), metadata["tokenizer"])


def _library() -> ModuleType:
    try:
        import safetensors.numpy
    except ModuleNotFoundError:
        raise UserError(
            'safetensors files need the package "safetensors"; install the extra: '
            'pip install "diffusion-jax[share]"'
        ) from None
    return safetensors


def _check_target(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: give a file name that ends in .safetensors, e.g. {MODEL_FILE}")
    for taken in (path, path.parent / CARD_FILE, path.parent / TOKENIZER_DIR):
        if taken.exists():
            raise UserError(
                f"{taken} exists and is not overwritten; give the model a directory of its own, "
                f"e.g. shared_model/{path.name}"
            )


def _to_share(config: ExperimentConfig) -> ExperimentConfig:
    """Drop the averages, which are not in the file, and where things lie on this machine."""
    data, file = config.data, config.tokenizer.vocab_file
    return replace(
        config,
        train=replace(config.train, ema_rates=()),
        tokenizer=replace(config.tokenizer, vocab_file=file and Path(file).name),
        data=replace(
            data,
            corpus=_file_names(data.corpus),
            validation=_file_names(data.validation),
            data_dir="",
            cache="",
        ),
    )


def _file_names(corpus: str) -> str:
    """Shorten absolute paths to file names."""
    parts = corpus.split(",")
    return ",".join(Path(part).name if part.startswith("/") else part for part in parts)


def _check_metadata(metadata: dict[str, str]) -> None:
    missing = [name for name in _NEEDED if name not in metadata]
    if metadata.get("format") != _FORMAT or missing:
        raise UserError(
            "its metadata is not that of a model of this program (diffusion-jax convert RUN --to "
            f"{MODEL_FILE} writes one)"
        )
    step = metadata["step"]
    # A number of thousands of digits is refused by its length: Python does not read it.
    if not step.isdecimal() or len(step) > len(str(_MAX_STEP)) or int(step) > _MAX_STEP:
        raise UserError(
            f"its metadata gives the step {step[:20]!r}, not a whole number up to {_MAX_STEP:,}"
        )


def _check_arrays(config: ExperimentConfig, slices: dict[str, Any]) -> None:
    """Raise UserError unless the file has the arrays of the network that it describes."""
    model = transformer_denoiser(config.model)
    expected: dict[str, Any] = flatten_dict(jax.eval_shape(model.init, jax.random.key(0)), sep=".")
    wanted = {name: ("F32", list(leaf.shape)) for name, leaf in expected.items()}
    found = {name: (item.get_dtype(), list(item.get_shape())) for name, item in slices.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UserError(
                f"{name} is {_described(found.get(name))} in the file and "
                f"{_described(wanted.get(name))} in the network that its configuration describes"
            )


def _check_finite(arrays: dict[str, np.ndarray]) -> None:
    """Raise UserError where a number is infinite or none at all: all texts would be noise."""
    for name, array in sorted(arrays.items()):
        if wrong := int(np.sum(~np.isfinite(array))):
            raise UserError(
                f"{wrong} of the {array.size} numbers of {name} are infinite or not a number "
                "(nan): the run had diverged, or the file is damaged; take an earlier one"
            )


def _described(array: tuple[str, list[int]] | None) -> str:
    return "absent" if array is None else f"{array[0]}{array[1]}"


def _contiguous(array: Any) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


def _size(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
