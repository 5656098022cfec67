"""``diffusion-jax train``: train the model of an experiment, or resume it."""

import dataclasses
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from diffusion_jax.cli import EXIT_FAILED, fail
from diffusion_jax.cli.experiment_file import SUFFIXES, experiment_named_in
from diffusion_jax.cli.options import parse
from diffusion_jax.config import ExperimentConfig
from diffusion_jax.errors import UserError

_PROFILED_STEPS = 5


@dataclass(frozen=True)
class TrainCommand:
    """Train the model of an experiment file, or resume it.

    Any field of the experiment can be overridden by its dotted name. The resolved configuration is
    printed and stored in the work directory. Ctrl-C saves and stops; --resume goes on exactly where
    the run stopped.

    Example: diffusion-jax train experiments/e2e.py --workdir runs/e2e --train.batch-size 32

    Several hosts: start the same command on each with --multihost, the work directory on a file
    system that all share. TPU pods and Slurm are recognised; elsewhere give the coordinator's
    address, the number of processes and each one's id, as options or in the environment
    (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID).

    Attributes:
        experiment: a Python file with config(scale), or a JSON file.
        workdir: directory of the run, new or empty.
        scale: which size of the experiment: "full", or "small" where the file offers it.
        resume: continue the run in the work directory (starts it where there is none).
        multihost: be one of several processes that train together; the default on a TPU host.
        coordinator: host:port of process 0, for --multihost.
        num_processes: how many processes train together, for --multihost.
        process_id: which of them this is, from 0, for --multihost.
        join_seconds: how long to wait for the other processes, for --multihost.
        profile: write a trace of five steps to WORKDIR/profile, for TensorBoard, xprof or Perfetto
            (--train.profile-steps sets another number).
        config: the experiment's fields.
    """

    experiment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EXPERIMENT")]
    workdir: Annotated[str, tyro.conf.arg(aliases=["-w"])]
    scale: str = "full"
    resume: bool = False
    multihost: bool = False
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    num_processes: int | None = None
    process_id: int | None = None
    join_seconds: int = 300
    profile: bool = False
    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(TrainCommand, "train", arguments, default=_defaults(arguments))
    if not command.experiment.endswith(SUFFIXES):
        raise UserError(
            f"experiment {command.experiment!r} is not a .py or .json file; "
            "give one of the files in experiments/, or your own"
        )
    with _processes(command):
        from diffusion_jax.experiment import train

        train(_with_profile(command), command.workdir, resume=command.resume)
    return 0


def _processes(command: TrainCommand) -> AbstractContextManager[None]:
    """Meet the other processes of the run, where it has any."""
    from diffusion_jax.scale import hosts

    given = (command.coordinator, command.num_processes, command.process_id)
    asked = command.multihost or given != (None, None, None)
    if not asked and not hosts.is_tpu_host():
        return nullcontext()
    where = hosts.rendezvous(*given, seconds=command.join_seconds) if asked else hosts.Rendezvous()
    return hosts.joined(where, command.workdir, _fail_fully, optional=not asked)


def _fail_fully(error: BaseException) -> int:
    """Say what went wrong, in full where it is no user's doing, and return the exit code."""
    try:
        code = fail(error)
    except BaseException:
        traceback.print_exc()
        code = EXIT_FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _with_profile(command: TrainCommand) -> ExperimentConfig:
    options = command.config.train
    if not command.profile or options.profile_steps > 0:
        return command.config
    options = dataclasses.replace(options, profile_steps=_PROFILED_STEPS)
    return dataclasses.replace(command.config, train=options)


def _defaults(arguments: Sequence[str]) -> TrainCommand | None:
    """Read the experiment first: its fields are the defaults that the other arguments override."""
    named = experiment_named_in(arguments, ("resume", "profile", "multihost"))
    if named is None:
        return None
    config = named.config
    corpus, validation = (
        any(argument.startswith(f"--data.{name}") for argument in arguments)
        for name in ("corpus", "validation")
    )
    if corpus and not validation and config.data.validation:
        # The file that the experiment names is not of this corpus, and most likely not here.
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, validation=""))
    return TrainCommand(tyro.MISSING, tyro.MISSING, scale=named.scale, config=config)
