"""One trainer per run directory: a lock that the system releases when its holder dies."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from diffusion_jax.errors import UserError

logger = logging.getLogger(__name__)

FILE = "lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a run directory, which is created where it is absent.

    It is the system's lock on a file (``flock``), so it cannot outlive its holder; the file itself
    may, and says who held it. Over a network file system it works where that passes locks on
    between machines; where there are no locks at all, a warning says so.

    Raises:
        UserError: another process holds it, or nothing can be written here.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = _open_locked(directory / FILE)
    except BlockingIOError:
        raise UserError(
            f"{directory} is being trained by {_holder(directory / FILE)}; wait for it, stop it, "
            "or choose another --workdir"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write to {directory}: {error.strerror}") from error
    try:
        yield
    finally:
        # Unlinked while it is held: who opens the name later opens a file of their own.
        with contextlib.suppress(OSError):
            (directory / FILE).unlink()
        os.close(descriptor)


def _open_locked(file: Path) -> int:
    """Return the descriptor of the lock file, locked; raise BlockingIOError where it is taken."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(descriptor, file)
            if _is_still(file, descriptor):
                _write_holder(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, file: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning(
            "the file system of %s has no locks: see to it yourself that one run at a time trains "
            "there",
            file.parent,
        )


def _is_still(file: Path, descriptor: int) -> bool:
    """Return whether the locked file has not been unlinked by the holder before us."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    now = datetime.now().isoformat(" ", "seconds")
    record = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now})
    os.ftruncate(descriptor, 0)
    # A full disk must not keep anybody from going on: the words are only for the other's message.
    with contextlib.suppress(OSError):
        os.pwrite(descriptor, record.encode(), 0)


def _holder(file: Path) -> str:
    try:
        record = json.loads(file.read_text())
        return f"process {record['pid']} on {record['host']} since {record['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
