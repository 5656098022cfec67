"""``diffusion-jax sample``: write new sentences with a trained model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from diffusion_jax.cli.options import SampleOverrides, check_output, output_stream, parse


@dataclass(frozen=True)
class SampleCommand:
    """Write new sentences with a trained model.

    Example: diffusion-jax sample runs/e2e --num 20 --steps 50

    Attributes:
        checkpoint: the --workdir of a training run.
        num: how many sentences.
        seed: sentence i depends on the seed and i alone.
        batch_size: sentences per compiled call.
        output: file to write; "-" is standard output. An existing file is not overwritten.
        format: "text", one sentence a line, or "jsonl", one {"id", "text"} a line.
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
    weights: str = "ema"
    checkpoint_step: int | None = None
    sampling: Annotated[SampleOverrides, tyro.conf.arg(name="")] = field(
        default_factory=SampleOverrides
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(SampleCommand, "sample", arguments)
    check_output(command.output)
    from diffusion_jax.generate import Generator

    generator = Generator.from_checkpoint(
        command.checkpoint,
        weights=command.weights,
        step=command.checkpoint_step,
        **command.sampling.given(),
    )
    texts = generator.sample(command.num, seed=command.seed, batch_size=command.batch_size)
    with output_stream(command.output) as stream:
        for index, text in enumerate(texts):
            if command.format == "jsonl":
                text = json.dumps({"id": index, "text": text}, ensure_ascii=False)
            print(text, file=stream, flush=True)
    return 0
