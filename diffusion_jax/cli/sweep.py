"""``diffusion-jax sweep``: run a family of experiments, gather what they reach, fit power laws."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from diffusion_jax.cli.options import check_output, output_stream, parse
from diffusion_jax.errors import RunError, UserError

EXPERIMENT = tyro.conf.arg(metavar="SWEEP_FILE")


@dataclass(frozen=True)
class RunCommand:
    """Run the jobs of a sweep file one after another; the same command goes on after a stop.

    Example: diffusion-jax sweep run experiments/scaling/isoflop.py --scale small -w runs/isoflop

    Attributes:
        sweep: a Python file with jobs(scale) that returns a list of sweep.Job.
        workdir: directory of the sweep; each job gets a run directory in it.
        scale: passed to jobs(scale).
        part: "i/n" runs every n-th job only, beginning with the i-th: one part per machine.
        bound_rows: validation rows for the likelihood bound.
        bound_timesteps: timesteps per row for it; more are less noisy.
        list: show the jobs and stop.
    """

    sweep: Annotated[tyro.conf.Positional[str], EXPERIMENT]
    workdir: Annotated[str, tyro.conf.arg(aliases=["-w"])]
    scale: str = "full"
    part: str = ""
    bound_rows: int = 1000
    bound_timesteps: int = 32
    list: bool = False


@dataclass(frozen=True)
class CollectCommand:
    """Gather the results of finished jobs as JSON lines.

    Example: diffusion-jax sweep collect runs/isoflop --output isoflop.jsonl

    Attributes:
        workdirs: directories of sweeps (or copies of them from several machines).
        output: where the lines go; "-" is standard output.
    """

    workdirs: tyro.conf.Positional[tuple[str, ...]]
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "-"


@dataclass(frozen=True)
class FitCommand:
    """Fit power laws to collected results, with 95% intervals from the bootstrap.

    With a budget that several sizes share, the best size for every budget is found first (a
    parabola in log size), and how it grows with the budget is fitted.

    Example: diffusion-jax sweep fit isoflop.jsonl --y "bound_nats_per_sentence - entropy"
        --plot isoflop.png

    Attributes:
        results: as from sweep collect.
        x: what the quantity falls with: a field of the results.
        y: what falls: a field, or a difference such as "bound_nats_per_sentence - entropy".
        budget: field that runs of equal cost share; "" where there is none.
        size: field that differs among runs of one budget.
        floor: "fit" finds what y falls to; "zero" takes y as it is (a floor already subtracted).
        refits: bootstrap samples.
        seed: of the bootstrap.
        plot: also draw a picture into this file (.png, .svg, .pdf; extra "bench").
        output: where the JSON goes; "-" is standard output.
    """

    results: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RESULTS")]
    x: str = "flops"
    y: str = "validation_loss"
    budget: str = "budget"
    size: str = "network_parameters"
    floor: str = "zero"
    refits: int = 1000
    seed: int = 0
    plot: str = ""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "-"


Command = (
    Annotated[RunCommand, tyro.conf.subcommand("run")]
    | Annotated[CollectCommand, tyro.conf.subcommand("collect")]
    | Annotated[FitCommand, tyro.conf.subcommand("fit")]
)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(Command, "sweep", arguments)  # type: ignore[arg-type]
    if isinstance(command, RunCommand):
        return _run(command)
    if isinstance(command, CollectCommand):
        return _collect(command)
    return _fit(command)


def _run(command: RunCommand) -> int:
    from diffusion_jax.sweep.jobs import load_jobs, part_of

    jobs = part_of(load_jobs(command.sweep, command.scale), command.part)
    if command.list:
        for job in jobs:
            print(job.name, json.dumps(job.labels))
        return 0
    from diffusion_jax.sweep.run import run_jobs

    failed = run_jobs(
        jobs,
        command.workdir,
        bound_rows=command.bound_rows,
        bound_timesteps=command.bound_timesteps,
    )
    if failed:
        raise RunError(f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}")
    return 0


def _collect(command: CollectCommand) -> int:
    from diffusion_jax.sweep.collect import collect

    if not command.workdirs:
        raise UserError("name the directory of a sweep to collect from")
    check_output(command.output)
    records = collect(command.workdirs)
    with output_stream(command.output) as stream:
        for record in records:
            print(json.dumps(record), file=stream)
    return 0


def _fit(command: FitCommand) -> int:
    check_output(command.output)
    if command.plot:
        check_output(command.plot)
    from diffusion_jax.sweep.collect import read_records
    from diffusion_jax.sweep.report import draw, fit_records

    records = [r for r in read_records(command.results) if r.get("status") == "finished"]
    report = fit_records(
        records,
        x=command.x,
        y=command.y,
        budget=command.budget,
        size=command.size,
        fit_floor=_fits_floor(command.floor),
        refits=command.refits,
        seed=command.seed,
    )
    if command.plot:
        draw(report, command.plot)
    with output_stream(command.output) as stream:
        print(json.dumps(report, indent=2), file=stream)
    return 0


def _fits_floor(floor: str) -> bool:
    if floor not in ("fit", "zero"):
        raise UserError(f'floor is {floor!r}; choose "fit" or "zero"')
    return floor == "fit"
