"""Run the jobs of a sweep one after another; what is finished is not run again."""

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax

from diffusion_jax.config import ExperimentConfig
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.evaluate.corpus_bound import corpus_bound
from diffusion_jax.experiment import TrainResult, has_validation, train
from diffusion_jax.program import Program
from diffusion_jax.scale.flops import network_flops, train_flops
from diffusion_jax.scale.mesh import make_mesh, place_batch
from diffusion_jax.sweep.collect import RESULT_FILE
from diffusion_jax.sweep.jobs import Job
from diffusion_jax.text.grammar import load_grammar
from diffusion_jax.text.loader import EvalLoader, RowTable
from diffusion_jax.train.progress import ProgressReport
from diffusion_jax.train.validation import make_validation
from diffusion_jax.workdir import write_whole

ENTROPY_SENTENCES = 5000


def run_jobs(
    jobs: Sequence[Job],
    root: str | Path,
    *,
    bound_rows: int = 1000,
    bound_timesteps: int = 64,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Train and measure every job that has no result yet, each in ``root/NAME``.

    A run that was stopped goes on from its newest checkpoint. A run that fails (a loss that is not
    finite) is a result too, and the next job begins.

    Args:
        jobs: in the order in which they are run.
        root: directory of the sweep.
        bound_rows: validation rows for the likelihood bound.
        bound_timesteps: timesteps per row for it.
        say: where a line per job goes.

    Returns:
        The names of the jobs that failed.

    Raises:
        UserError: a job cannot begin: bad configuration, or its directory is of another job.
    """
    if bound_rows < 2 or bound_timesteps < 1:
        raise UserError(
            f"bound_rows={bound_rows} and bound_timesteps={bound_timesteps} must be at least 2 and "
            "1: rows and timesteps of the likelihood bound"
        )
    for job in jobs:
        if not has_validation(job.config.data):
            raise UserError(
                f"job {job.name!r} has no validation corpus, and a sweep compares validation "
                "losses; give it data.validation"
            )
    failed = []
    for number, job in enumerate(jobs, 1):
        where = Path(root) / job.name
        prefix = f"[{number}/{len(jobs)}] {job.name}"
        if (where / RESULT_FILE).is_file():
            say(f"{prefix}: finished before")
            continue
        begun = time.monotonic()
        measured: dict[str, Any] | None
        try:
            measured = _measure(
                train(job.config, where, resume=True, report=_quiet()), bound_rows, bound_timesteps
            )
        except RunError as error:
            measured = {"status": "failed", "error": str(error)}
        if measured is None:
            raise RunError(f"{prefix} was stopped; the same command goes on from its checkpoint")
        measured["seconds"] = round(time.monotonic() - begun, 1)
        _write(where, {"job": job.name, **job.labels, **measured})
        # Every job has programs of its own; those of the last are of no use to the next.
        jax.clear_caches()
        if measured["status"] == "failed":
            failed.append(job.name)
            say(f"{prefix}: failed: {measured['error']}")
        else:
            say(
                f"{prefix}: validation loss {measured['validation_loss']:.4f}, "
                f"{measured['seconds']:.0f} s"
            )
    return failed


def _measure(result: TrainResult, bound_rows: int, bound_timesteps: int) -> dict[str, Any] | None:
    """Return what a finished run reached, or None where it was stopped before its end."""
    config, state = result.config, result.fit.state
    if int(state.step) < config.train.steps:
        return None
    held_out = result.data.validation
    assert held_out is not None  # every job was asked before the first began
    program, params = Program.build(config), result.generator.params
    spec, length = config.model, config.data.length
    rows = config.train.steps * config.train.batch_size
    bound = corpus_bound(
        program,
        params,
        held_out,
        result.data.tokenizer,
        num_rows=bound_rows,
        num_timesteps=bound_timesteps,
    )
    flops = train_flops(spec, length, self_cond_rate=config.diffusion.self_cond_rate)
    return {
        "status": "finished",
        "seed": config.train.seed,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "network_parameters": sum(leaf.size for leaf in jax.tree.leaves(params["network"])),
        "network_flops_per_row": network_flops(spec, length),
        "rows": rows,
        "tokens": rows * length,
        "flops": float(rows * flops),
        **_validation_losses(program, params, held_out),
        **{f"bound_{name}": value for name, value in bound._asdict().items()},
        **_entropy(config),
        "model": asdict(spec),
        "learning_rate": config.optim.learning_rate,
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "jax": jax.__version__,
    }


def _validation_losses(program: Program, params: Any, held_out: RowTable) -> dict[str, float]:
    config = program.config
    batches = EvalLoader(
        held_out,
        config.train.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    losses = make_validation(
        program.loss,
        batches,
        num_timesteps=config.diffusion.timesteps,
        place=partial(place_batch, mesh),
    )(params)
    return {
        f"validation_{'loss' if name == 'total' else name}": value for name, value in losses.items()
    }


def _entropy(config: ExperimentConfig) -> dict[str, float]:
    """Return the entropy of the source where it is known: of the grammar's sentences."""
    corpus = config.data.corpus
    if not corpus.startswith("grammar:") or config.data.task != "text":
        return {}
    entropy = load_grammar(corpus.removeprefix("grammar:")).entropy(0, ENTROPY_SENTENCES)
    return {"entropy": entropy.nats_per_sentence, "entropy_error": entropy.se_sentence}


def _write(where: Path, record: dict[str, Any]) -> None:
    """Write a result at once: its presence says that the job is finished."""
    if jax.process_index() != 0:
        return
    write_whole(where / RESULT_FILE, json.dumps(record) + "\n")


def _quiet() -> ProgressReport:
    """Return a report that says little: a sweep has a line per job."""
    from rich.console import Console

    return ProgressReport(console=Console(stderr=True, quiet=True))
