"""What a sweep consists of: a Python file that lists its runs."""

import re
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from diffusion_jax.config import ExperimentConfig
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: of its directory: letters, digits, dots, dashes, underscores.
        config: the experiment.
        labels: what the sweep varies, by name (e.g. ``{"width": 64, "budget": 1e13}``): written
            into the result beside what is measured.
    """

    name: str
    config: ExperimentConfig
    labels: dict[str, Any] = field(default_factory=dict)


def load_jobs(path: str, scale: str = "full") -> list[Job]:
    """Run a sweep file's ``jobs(scale)``.

    Raises:
        UserError: the file is missing, fails, has no ``jobs``, or lists two runs of one name.
    """
    file = Path(path)
    if not file.is_file() or file.suffix != ".py":
        raise UserError(f"sweep file {path} does not exist or is no .py file")
    try:
        build = runpy.run_path(str(file), run_name="diffusion_jax_sweep").get("jobs")
        jobs = list(cast(Any, build)(scale)) if callable(build) else None
    except Exception as error:
        detail = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: {detail}") from error
    if jobs is None:
        raise UserError(f"{path} has no function jobs(scale) that returns a list of sweep.Job")
    if not jobs:
        raise UserError(f"{path}: jobs({scale!r}) returns no job; it must list at least one")
    for job in jobs:
        if not isinstance(job, Job) or not isinstance(job.config, ExperimentConfig):
            raise UserError(
                f"{path}: jobs() lists {job!r}; every entry must be a sweep.Job(name, config) with "
                "an ExperimentConfig"
            )
    names = [job.name for job in jobs]
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            raise UserError(f"{path}: job name {name!r}; use letters, digits, dots, dashes")
        if names.count(name) > 1:
            raise UserError(f"{path}: two jobs are called {name!r}; give each its own name")
    for job in jobs:
        if job.config.data.length_bucket or job.config.diffusion.position_schedule != "shared":
            raise UserError(
                f"{path}: job {job.name!r}: a sweep counts the arithmetic of full rows and "
                "compares likelihood bounds; leave data.length_bucket at 0 and "
                'diffusion.position_schedule "shared"'
            )
    return jobs


def part_of(jobs: list[Job], part: str) -> list[Job]:
    """Return one machine's share of the jobs.

    Args:
        jobs: all.
        part: "i/n": every n-th job, beginning with the i-th (from 1); "" for all.

    Raises:
        UserError: anything else.
    """
    if not part:
        return jobs
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f'part is {part!r}; give "i/n" with i from 1 to n, for example "1/4"')
    return jobs[int(found[1]) - 1 :: int(found[2])]
