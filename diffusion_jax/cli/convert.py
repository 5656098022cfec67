"""``diffusion-jax convert``: published and shared models in, safetensors out."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import tyro

from diffusion_jax.cli.options import parse
from diffusion_jax.convert.families import EmbeddingSource, Family
from diffusion_jax.errors import UserError

_HUB = "hub:"
# Which options each kind of source takes.
_TAKES = {
    "an original checkpoint": (
        *("workdir", "vocab", "family", "num_heads"),
        *("embedding_source", "length"),
    ),
    "a safetensors file": ("workdir",),
    "a Hub repository": ("workdir", "revision"),
    "a run directory": ("to", "weights", "checkpoint_step", "public"),
}


@dataclass(frozen=True)
class ConvertCommand:
    """Turn a published or shared model into a run directory, or a run into a file to share.

    Examples:
      diffusion-jax convert ema_0.9999_200000.pt --vocab vocab.json --workdir runs/dlm
      diffusion-jax convert runs/dlm --to shared/model.safetensors
      diffusion-jax convert shared/model.safetensors --workdir runs/copy
      diffusion-jax convert runs/dlm --to hub:OWNER/NAME
      diffusion-jax convert hub:OWNER/NAME --workdir runs/copy

    Attributes:
        source: a .pt file of Diffusion-LM, DiffuSeq or DiffuSeq-v2, a .safetensors file, a run
            directory, or hub:OWNER/NAME.
        workdir: run directory to write, new or empty.
        vocab: .pt: the vocabulary it was trained with (Diffusion-LM's vocab.json, BERT's vocab.txt,
            or a list of words).
        family: .pt: which system it is (default: inferred).
        num_heads: .pt: attention heads, which the file does not show (default: width / 64).
        embedding_source: .pt: which of its two embedding tables to take: "lm_head" (default; what
            the original programs sample with) or "word_embedding" (the averaged one).
        length: .pt: row length in tokens (default: the published one, 64 or 128).
        to: run directory: write NAME.safetensors, or upload to hub:OWNER/NAME.
        weights: run directory: "ema" (default), "ema RATE" or "params" (not averaged).
        checkpoint_step: run directory: which checkpoint (default: the newest that is intact).
        public: run directory: let everyone read a Hub repository that this command makes.
        revision: hub:OWNER/NAME: branch, tag or commit (default: the newest).
    """

    source: tyro.conf.Positional[str]
    workdir: str | None = None
    vocab: str | None = None
    family: Family | None = None
    num_heads: int | None = None
    embedding_source: EmbeddingSource | None = None
    length: int | None = None
    to: str | None = None
    weights: str | None = None
    checkpoint_step: int | None = None
    public: bool = False
    revision: str | None = None


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(ConvertCommand, "convert", arguments)
    kind = _kind(command.source)
    _check_options(command, kind)
    if kind == "a run directory":
        _export(command)
    elif kind == "an original checkpoint":
        _convert_original(command)
    else:
        _import(command)
    return 0


def _kind(source: str) -> str:
    if source.startswith(_HUB):
        return "a Hub repository"
    if Path(source).is_dir():
        return "a run directory"
    if not Path(source).exists():
        raise UserError(f"{source}: no such file or directory")
    if source.endswith(".safetensors"):
        return "a safetensors file"
    return "an original checkpoint"


def _check_options(command: ConvertCommand, kind: str) -> None:
    """Refuse what this kind of source would ignore, and miss what it needs."""
    takes = _TAKES[kind]
    for option in fields(command):
        value = getattr(command, option.name)
        # By identity: 0 is given, and equal to False.
        given = value is not None and value is not False
        if option.name != "source" and given and option.name not in takes:
            raise UserError(
                f"{_flag(option.name)} has no meaning for {kind} ({command.source}); "
                f"that takes {', '.join(map(_flag, takes))}"
            )
    for name in ("workdir", "vocab", "to"):
        if name in takes and getattr(command, name) is None:
            raise UserError(f"{kind} ({command.source}) needs {_flag(name)}")
    if command.public and not str(command.to).startswith(_HUB):
        raise UserError("--public has no meaning for a file; it belongs to --to hub:OWNER/NAME")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _convert_original(command: ConvertCommand) -> None:
    from diffusion_jax.convert.original import convert_original

    assert command.workdir is not None
    assert command.vocab is not None
    done = convert_original(
        command.source,
        command.workdir,
        command.vocab,
        family=command.family,
        num_heads=command.num_heads,
        embedding_source=command.embedding_source or "lm_head",
        length=command.length,
    )
    original, spec = done.original, done.original.spec
    guessed = "" if command.family else " (inferred; --family says otherwise)"
    assumed = "" if command.num_heads else " (not in the file: width / 64; --num-heads)"
    print(f"family: {done.family}{guessed}")
    print(
        f"network: {spec.num_layers} layers, width {spec.hidden_dim}, word vectors "
        f"{spec.vocab_size} x {spec.embed_dim}, {spec.max_length} positions"
    )
    print(f"attention heads: {spec.num_heads}{assumed}")
    print(f"row length: {done.config.data.length}")
    print(f"embedding: {original.embedding_source}.weight; {_compare(original.embedding_gap)}")
    _report(command.workdir, original.step)


def _compare(gap: float) -> str:
    if gap == 0:
        return "the two tables of the file are equal"
    return (
        f"the two tables of the file differ (by up to {gap:.2g}: lm_head is raw, word_embedding "
        "averaged); --embedding-source chooses"
    )


def _import(command: ConvertCommand) -> None:
    assert command.workdir is not None
    if command.source.startswith(_HUB):
        from diffusion_jax.convert.hub import pull_run

        repo_id = command.source.removeprefix(_HUB)
        shared = pull_run(repo_id, command.workdir, revision=command.revision)
    else:
        from diffusion_jax.convert.safetensors import import_run

        shared = import_run(command.source, command.workdir)
    _report(command.workdir, shared.step)


def _report(workdir: str, step: int) -> None:
    print(f"written: {workdir}, a run of {step} updates")


def _export(command: ConvertCommand) -> None:
    assert command.to is not None
    options = {"weights": command.weights or "ema", "step": command.checkpoint_step}
    if command.to.startswith(_HUB):
        from diffusion_jax.convert.hub import push_run

        push_run(command.source, command.to.removeprefix(_HUB), public=command.public, **options)
    else:
        from diffusion_jax.convert.safetensors import export_run

        export_run(command.source, command.to, **options)
    print(f"written: {command.to}")
