"""What the commands share: parsing, overrides of the reverse process, output files."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import tyro

from diffusion_jax.config import ExperimentConfig
from diffusion_jax.errors import UserError

Command = TypeVar("Command")


def parse(command: type[Command], name: str, arguments: Sequence[str], **options: Any) -> Command:
    """Read a command's arguments; prints help or a message and exits where that is due."""
    try:
        return tyro.cli(command, prog=f"diffusion-jax {name}", args=list(arguments), **options)
    except SystemExit:
        # A reader that has left (head, less) is met here, not when the interpreter ends.
        sys.stdout.flush()
        raise


@dataclass(frozen=True)
class SampleOverrides:
    """The reverse process; what is not given stays as the run's configuration says.

    Attributes:
        sampler: "ddpm" (ancestral), "ddim", or "dpm++" (DPM-Solver++, good with 5 to 50 steps).
            With another one than the run's, what it has not in common with that is its default.
        steps: network calls per text, from 1 to the training timesteps.
        spacing: where they are made: equal strides in time ("trailing", "leading", "linspace"),
            denser towards the end ("quadratic"), or uniform in "log_snr".
        eta: DDIM's noise, 0 (deterministic) to 1.
        variance: DDPM's variance.
        order: of dpm++, 1 to 3. A third order needs 5 steps (singlestep: 4); with 1 or 2 steps the
            second is the first.
        method: of dpm++: reuse earlier estimates, or make "order" calls for each longer step.
        time_shift: tell the network a time later by this share of the schedule, 0 to below 1.
        clamp: round the estimates to embeddings at "all" steps, in the "last" half, or "none".
        guidance_scale: how much the source counts: 1 as trained, 0 not at all, 2 doubly.
        temperature: divides the logits of a model that predicts a token posterior.
        noise_bound: truncate the noise at this many standard deviations; 0 switches it off.
        noise_scale: multiply the noise of every step, 0 to 1: lower is more typical, less diverse.
        rounding: final words by the trained "head" or the "nearest" embedding.
        faithful_v2: DiffuSeq-v2's published chain with its deviations, to repeat its numbers.
    """

    sampler: Literal["ddpm", "ddim", "dpm++"] | None = None
    steps: int | None = None
    spacing: Literal["trailing", "leading", "linspace", "quadratic", "log_snr"] | None = None
    eta: float | None = None
    variance: Literal["fixed_small", "fixed_large"] | None = None
    order: int | None = None
    method: Literal["multistep", "singlestep"] | None = None
    time_shift: float | None = None
    clamp: Literal["all", "last", "none"] | None = None
    guidance_scale: float | None = None
    temperature: float | None = None
    noise_bound: float | None = None
    noise_scale: float | None = None
    rounding: Literal["head", "nearest"] | None = None
    faithful_v2: bool | None = None

    def given(self) -> dict[str, Any]:
        """Return the options that were given."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def ready_to_compile(config: ExperimentConfig) -> ExperimentConfig:
    """Fill in what the compiled shapes need: as it is given, or else as the corpus has it."""
    if config.model.vocab_size is not None:
        return config.for_shapes()
    from diffusion_jax.experiment import complete, open_data

    return complete(config, open_data(config).tokenizer)


@contextmanager
def output_stream(path: str, *, append: bool = False) -> Iterator[IO[str]]:
    """Open a file to write, or standard output for "-"; never overwrites a file.

    Raises:
        UserError: the file exists (and is not to be continued), or its directory does not.
    """
    if path == "-":
        yield sys.stdout
        return
    check_output(path, append=append)
    with Path(path).open("a" if append else "x", encoding="utf-8") as stream:
        yield stream


@contextmanager
def progress(verb: str, total: int | None, done: int = 0) -> Iterator[Callable[[], None]]:
    """Show a bar on standard error, where a person reads it; gives a function to call per item.

    Args:
        verb: what is being done.
        total: items in all; None where it is not known.
        done: items that were done before.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(verb),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(verb, total=total, completed=done)
        yield lambda: bar.advance(task)


def check_output(path: str, *, append: bool = False) -> None:
    """Raise UserError where ``output_stream`` would, before any work is done."""
    if path == "-":
        return
    if not path:
        raise UserError("the name of the output file is empty")
    if Path(path).is_dir():
        raise UserError(f"{path} is a directory; give the name of a file")
    if Path(path).exists() and not append:
        raise UserError(f"{path} exists; choose another --output, it is not overwritten")
    if not Path(path).parent.is_dir():
        raise UserError(f"the directory of {path} does not exist; create it first")
