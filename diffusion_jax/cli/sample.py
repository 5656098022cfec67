"""``diffusion-jax sample``: write new sentences with a trained model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal

import tyro

from diffusion_jax.cli.options import SampleOverrides, check_output, output_stream, parse, progress
from diffusion_jax.cli.resuming import begin, count_done
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class SampleCommand:
    """Write new sentences with a trained model.

    They are written as they are made, a batch at a time. An interrupted file of JSON lines is
    continued with --resume; what it depends on is kept beside it, in OUTPUT.options.json.

    Example: diffusion-jax sample runs/e2e --num 20 --steps 50

    Attributes:
        checkpoint: the --workdir of a training run.
        num: how many sentences.
        seed: sentence i depends on the seed and i alone.
        batch_size: sentences per compiled call.
        output: file to write; "-" is standard output. An existing file is not overwritten.
        format: "text", one sentence a line (line ends within it become spaces), or "jsonl", one
            {"id", "text"} a line.
        resume: continue an output file of JSON lines that was begun.
        weights: "ema", "ema RATE" or "params" (not averaged).
        checkpoint_step: which checkpoint; None is the newest that is intact.
        sampling: how to sample, where it shall differ from the run's configuration.
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    num: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 10
    seed: int = 0
    batch_size: int = 64
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "-"
    format: Literal["text", "jsonl"] = "text"
    resume: bool = False
    weights: str = "ema"
    checkpoint_step: int | None = None
    sampling: Annotated[SampleOverrides, tyro.conf.arg(name="")] = field(
        default_factory=SampleOverrides
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(SampleCommand, "sample", arguments)
    check_output(command.output, append=command.resume)
    done = _count_done(command) if command.resume else 0
    from diffusion_jax.generate import Generator

    generator = Generator.from_checkpoint(
        command.checkpoint,
        weights=command.weights,
        step=command.checkpoint_step,
        **command.sampling.given(),
    )
    if done and done == command.num:
        return 0
    texts = generator.stream(
        command.num - done, seed=command.seed, batch_size=command.batch_size, first_index=done
    )
    describe = partial(generator.options, seed=command.seed)
    begin(command.output, describe, resume=command.resume)
    with (
        output_stream(command.output, append=command.resume) as stream,
        progress("writing", command.num, done) as advance,
    ):
        for index, text in enumerate(texts, start=done):
            if command.format == "jsonl":
                line = json.dumps({"id": index, "text": text}, ensure_ascii=False)
            else:
                line = " ".join(text.split("\n"))
            print(line, file=stream, flush=True)
            advance()
    return 0


def _count_done(command: SampleCommand) -> int:
    """Return how many complete lines the output already has; UserError where they are not ours."""
    if command.format != "jsonl":
        raise UserError("--resume continues a file of JSON lines; give --format jsonl")
    return count_done(
        command.output,
        ((i, True) for i in range(command.num)),
        lambda record: (record["id"], set(record) == {"id", "text"}),
        "id and whether the text is all there is beside it",
    )
