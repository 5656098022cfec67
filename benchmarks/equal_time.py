"""Training for a given processor time: how many steps that is, and how each step's cost is known.

The seconds are those of all threads of the process, so that other programs on the machine count
little. The cost of a step is measured first, on a short run of the same training that is thrown
away; compilation is left out of it.
"""

import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

from diffusion_jax import experiment
from diffusion_jax.autoregressive_run import train_autoregressive
from diffusion_jax.config import AutoregressiveRunConfig, ExperimentConfig
from diffusion_jax.train.events import StepEvent
from diffusion_jax.train.progress import ProgressReport

TRIAL_STEPS, WARM_STEPS = 100, 10
COMPILED_ABOVE = 4.0
"""A step that took more than this many medians compiled for a new length of row."""

Config = ExperimentConfig | AutoregressiveRunConfig


class Clock(ProgressReport):
    """Reports progress and remembers the processor time after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def __call__(self, event: StepEvent) -> None:
        """Look at the clock, then report."""
        self.times.append(time.process_time())
        super().__call__(event)


def with_steps(config: Any, steps: int) -> Any:
    """Return the configuration with another length, saved a few times on the way."""
    warmup = min(config.optim.warmup_steps, steps // 10)
    return replace(
        config,
        train=replace(config.train, steps=steps, checkpoint_every=max(1, steps // 8)),
        optim=replace(config.optim, warmup_steps=warmup),
    )


def train(config: Config, workdir: Path, report: ProgressReport) -> str | None:
    """Train, or go on; return the signal that stopped it, if any."""
    if isinstance(config, ExperimentConfig):
        return experiment.train(config, workdir, resume=True, report=report).fit.stopped_by
    return train_autoregressive(config, workdir, resume=True, report=report).fit.stopped_by


def seconds_per_step(config: Config) -> float:
    """Return the mean processor time of a step, from a run that is thrown away.

    Raises:
        SystemExit: a signal stopped it.
    """
    clock = Clock()
    with TemporaryDirectory() as folder:
        stopped_by = train(with_steps(config, TRIAL_STEPS), Path(folder) / "trial", clock)
    if stopped_by:
        raise SystemExit(f"the trial of a few steps was stopped by {stopped_by}")
    costs = [after - before for before, after in pairwise(clock.times[WARM_STEPS:])]
    # Rows of several lengths cost differently, so the mean counts, but not what was compiled.
    limit = COMPILED_ABOVE * median(costs)
    return fmean(cost for cost in costs if cost <= limit)


def train_for(seconds: float, config: Config, workdir: Path) -> dict[str, Any]:
    """Train for a processor time, or go on; return what it took.

    The plan is kept beside the run, in ``workdir.json``, so that the same call goes on with it.

    Raises:
        SystemExit: a signal stopped the training; there is nothing to report yet.
    """
    plan_file = workdir.with_suffix(".json")
    if plan_file.exists():
        plan = json.loads(plan_file.read_text())
    else:
        each = seconds_per_step(config)
        plan = {
            "train_steps": max(1, int(seconds / each)),
            "step_cpu_s": round(each, 4),
            "train_cpu_s": 0.0,
        }
        workdir.parent.mkdir(parents=True, exist_ok=True)
        plan_file.write_text(json.dumps(plan))
    began = time.process_time()
    stopped_by = train(with_steps(config, plan["train_steps"]), workdir, ProgressReport())
    # All of it: compilation, and again for every time that the training was taken up.
    plan["train_cpu_s"] = round(plan.get("train_cpu_s", 0.0) + time.process_time() - began, 1)
    plan_file.write_text(json.dumps(plan))
    if stopped_by:
        raise SystemExit(f"{workdir.name}: stopped by {stopped_by}; the same command goes on")
    return plan
