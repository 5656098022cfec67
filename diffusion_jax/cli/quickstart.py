"""``diffusion-jax quickstart``: the whole program at work in five minutes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from diffusion_jax.cli.options import parse


@dataclass(frozen=True)
class QuickstartCommand:
    """Train a small model on the built-in grammar, show what it writes, and judge it by parsing.

    Nothing is downloaded. On two CPU cores it takes about five minutes.

    Attributes:
        task: "text" trains a Diffusion-LM; "seq2seq" a DiffuSeq from attributes to sentences.
        size: "small" (128 words) or "full" (457; give it more --steps).
        workdir: directory of the run, new or empty; default runs/quickstart-TASK-SIZE.
        steps: training steps, where you want other than the default.
        resume: go on with a quickstart that was interrupted.
    """

    task: Literal["text", "seq2seq"] = "text"
    size: Literal["small", "full"] = "small"
    workdir: Annotated[str | None, tyro.conf.arg(aliases=["-w"])] = None
    steps: int | None = None
    resume: bool = False


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(QuickstartCommand, "quickstart", arguments)
    from diffusion_jax.quickstart import run

    workdir = command.workdir or f"runs/quickstart-{command.task}-{command.size}"
    run(command.task, command.size, workdir, steps=command.steps, resume=command.resume)
    return 0
