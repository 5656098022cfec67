"""Several processes, one run: how they meet, and what the others say when one of them is lost.

The engine is JAX's own (``jax.distributed``). Its runtime ends a process from C++, without an
exception, when another one is lost or never comes; what this module adds is the sentence that a
user needs then, said by a small watching process that outlives it.
"""

import contextlib
import importlib.util
import inspect
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import jax

from diffusion_jax.errors import RunError, UserError

JOIN_SECONDS = 300
HEARTBEAT_SECONDS = 30
"""After how long a silent process counts as lost. The runtime's threads send the heartbeats, so
that a long compilation does not silence a process."""

SHUTDOWN_SECONDS = 60
_VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
_SHUTDOWN = "shutdown_timeout_seconds"
# Of the errors that a collective, a barrier or the key-value store raise when a process is lost.
_SIGNS_OF_LOSS = ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "eartbeat", "arrier", "NCCL")
_TPU_DEVICE_FILES = ("/dev/accel0", "/dev/vfio/0")


@dataclass(frozen=True)
class Rendezvous:
    """Where the processes of a run meet; None is left to JAX, which knows TPU pods and Slurm.

    Attributes:
        coordinator: ``host:port`` of process 0, on a port that is free there.
        num_processes: how many processes the run has.
        process_id: which one this is, from 0.
        seconds: how long to wait for the others.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    seconds: int = JOIN_SECONDS

    def __post_init__(self) -> None:
        """Raise UserError where the parts do not fit together."""
        given = (self.coordinator, self.num_processes, self.process_id)
        missing = [name for name, value in zip(_VARIABLES, given) if value is None]
        if missing and len(missing) < len(given):
            options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
            variables = ", ".join(_VARIABLES[name] for name in missing)
            raise UserError(
                f"{options} is missing: several hosts need the coordinator's address, the number "
                f"of processes and this process's id, as options or in the environment "
                f"({variables}); on a TPU pod or under Slurm give none of them"
            )
        if self.seconds < 1:
            raise UserError(f"the time to wait for the others is {self.seconds} s; give at least 1")
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            return
        _split_address(self.coordinator)
        if self.num_processes < 1:
            raise UserError(f"num_processes is {self.num_processes}; it must be at least 1")
        if not 0 <= self.process_id < self.num_processes:
            raise UserError(
                f"process_id is {self.process_id}, but with {self.num_processes} processes it must "
                f"be from 0 to {self.num_processes - 1}"
            )


def rendezvous(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    seconds: int = JOIN_SECONDS,
    environment: Mapping[str, str] = os.environ,
) -> Rendezvous:
    """Complete what was given from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.

    Raises:
        UserError: a value is out of range, not a number, or only some of the three are known.
    """
    coordinator = coordinator or environment.get(_VARIABLES["coordinator"]) or None
    if num_processes is None:
        num_processes = _number(environment, _VARIABLES["num_processes"])
    if process_id is None:
        process_id = _number(environment, _VARIABLES["process_id"])
    return Rendezvous(coordinator, num_processes, process_id, seconds)


def is_tpu_host(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this machine has TPU chips, and may hence be one host of a pod."""
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms.split(","):
        return False
    has_library = importlib.util.find_spec("libtpu") is not None
    return has_library and any(Path(file).exists() for file in _TPU_DEVICE_FILES)


def join(where: Rendezvous, *, optional: bool = False) -> None:
    """Meet the other processes; before anything else touches a device.

    Args:
        where: see ``Rendezvous``.
        optional: go on alone where JAX finds no other hosts by itself.

    Raises:
        UserError: the coordinator cannot be reached in time, or the other hosts are not known.
    """
    if where.coordinator is not None and where.process_id != 0:
        _wait_for_coordinator(where.coordinator, where.seconds)
    try:
        jax.distributed.initialize(
            where.coordinator,
            where.num_processes,
            where.process_id,
            initialization_timeout=where.seconds,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            **_shutdown_timeout(),
        )
    except (ValueError, RuntimeError, OSError) as error:
        if optional:
            return
        if where.coordinator is None:
            raise UserError(
                f"JAX does not find the other hosts by itself ({_brief(error)}); give "
                "--coordinator HOST:PORT, --num-processes and --process-id"
            ) from error
        raise UserError(
            f"cannot join the processes at {where.coordinator}: {_brief(error)}"
        ) from error
    # The runtime has taken SIGTERM for itself, behind Python's back; ``train.interrupt`` needs it.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


class LastWords:
    """What is to be said when this process ends without having taken leave.

    A shell of a few lines holds the end of a pipe; when the pipe closes it says the last text that
    it was given on standard error. So the text is said also when the process is killed, or aborted
    by the runtime.
    """

    _SCRIPT = 'words=; while IFS= read -r line; do words="$line"; done; [ -z "$words" ] || {}'

    def __init__(self, *, to: IO[str] | None = None):
        """Start the shell.

        Args:
            to: a file with a descriptor; default this process's standard error.
        """
        say = f"printf '%s\\n' {shlex.quote('diffusion-jax: error: ')}\"$words\" >&2"
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", self._SCRIPT.format(say)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=to,
            # Nothing is held back here that could not be written any more at the end.
            bufsize=0,
            # Ctrl-C on the terminal is meant for the run.
            start_new_session=True,
        )

    def change(self, words: str) -> None:
        """Say this from now on, on one line; an empty text says nothing."""
        assert self._shell.stdin is not None
        # Where somebody ended the shell, the run goes on without it.
        with contextlib.suppress(BrokenPipeError):
            self._shell.stdin.write((" ".join(words.split()) + "\n").encode())

    def close(self) -> None:
        """Say nothing, and end the shell."""
        self.change("")
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait()


@contextmanager
def joined(
    where: Rendezvous, workdir: str, fail: Callable[[BaseException], int], *, optional: bool = False
) -> Iterator[None]:
    """Be one process of several inside the ``with``.

    An error that this process alone has met ends it at once, without waiting for the others, which
    thereby learn of it; one that all have met (its ``on_all_processes``) ends them in order.

    Args:
        where: where to meet.
        workdir: named in what is said when a process is lost.
        fail: says an error and returns the exit code.
        optional: see ``join``.

    Raises:
        UserError: see ``join``.
    """
    words = LastWords()
    words.change(
        f"not all processes{f' of {where.num_processes}' if where.num_processes else ''} came "
        f"together{f' at {where.coordinator}' if where.coordinator else ''} within "
        f"{where.seconds} s; start one for every id from 0, each with the same address"
    )
    try:
        join(where, optional=optional)
    except BaseException:
        words.close()
        raise
    words.change(
        f"process {jax.process_index()} of {jax.process_count()} ended because another process "
        f"was lost, or was killed itself; {_go_on(workdir)}"
    )
    try:
        yield
    except BaseException as error:
        words.close()
        if jax.process_count() == 1 or getattr(error, "on_all_processes", False):
            jax.distributed.shutdown()
            raise
        # Leaving in order would wait for the others, which wait for this one.
        os._exit(fail(_explain(error, workdir)))
    jax.distributed.shutdown()
    words.close()


def _explain(error: BaseException, workdir: str) -> BaseException:
    """Return what to say instead of the runtime's words about a lost process."""
    text = str(error)
    if isinstance(error, UserError | RunError) or not any(sign in text for sign in _SIGNS_OF_LOSS):
        return error
    return RunError(
        f"process {jax.process_index()} of {jax.process_count()} lost contact with another "
        f"process ({_brief(error)}); {_go_on(workdir)}"
    )


def _go_on(workdir: str) -> str:
    return (
        "start all processes again with --resume: the run goes on from the newest checkpoint in "
        f"{workdir}"
    )


def _wait_for_coordinator(address: str, seconds: float) -> None:
    """Return once somebody listens at an address; the runtime itself would abort the process."""
    host, port = _split_address(address)
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"the coordinator at {address} cannot be reached within {seconds} s "
                    f"({error}); start process 0 there, and see that the port is open"
                ) from error
        time.sleep(0.2)


def _split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"the coordinator's address is {address!r}; give HOST:PORT")
    return host.strip("[]"), int(port)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if not text:
        return None
    if not text.isdigit():
        raise UserError(f"the environment variable {name} is {text!r}; it must be a whole number")
    return int(text)


def _shutdown_timeout() -> dict[str, Any]:
    """Return the option of the newer versions of JAX."""
    known = inspect.signature(jax.distributed.initialize).parameters
    return {_SHUTDOWN: SHUTDOWN_SECONDS} if _SHUTDOWN in known else {}


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
