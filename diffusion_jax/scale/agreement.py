"""What the processes of a run tell each other between steps; with one process, nothing.

Every function here is collective: all processes call it, in the same order.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffusion_jax.config import ExperimentConfig
from diffusion_jax.config_io import differences, from_json
from diffusion_jax.errors import UserError
from diffusion_jax.text.store import TokenStore
from diffusion_jax.version import __version__


def exchange(text: str) -> list[str]:
    """Return the texts of all processes, by process index."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.asarray(own.size, np.int32)))
    # A few sizes only, as each compiles a program.
    room = max(256, 1 << int(sizes.max() - 1).bit_length()) if sizes.max() else 256
    padded = np.zeros(room, np.uint8)
    padded[: own.size] = own
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes.reshape(-1))]


def check_same(text: str, explain: Callable[[int, str, str], str]) -> None:
    """Raise UserError, on every process, unless the texts of all are equal.

    Args:
        text: of this process.
        explain: (index of a process whose text differs, text of process 0, its text) -> message.
    """
    digests = exchange(hashlib.sha256(text.encode()).hexdigest())
    if len(set(digests)) == 1:
        return
    texts = exchange(text)
    index = next(i for i, other in enumerate(texts) if other != texts[0])
    raise _on_all(UserError(explain(index, texts[0], texts[index])))


def check_same_start(config: ExperimentConfig, resume: bool) -> None:
    """Raise UserError, on every process, unless all were started alike."""

    def explain(index: int, first: str, other: str) -> str:
        return f"processes were started differently: {first} on process 0, {other} on {index}"

    def explain_configs(index: int, first: str, other: str) -> str:
        listing = "; ".join(
            f"{name} is {ours!r} on process 0 and {theirs!r} on process {index}"
            for name, (ours, theirs) in differences(from_json(first), from_json(other)).items()
        )
        return f"processes were started with different configurations: {listing}"

    check_same(f"diffusion_jax {__version__}, jax {jax.__version__}, resume={resume}", explain)
    check_same(config.to_json(), explain_configs)


def check_same_data(stores: Sequence[TokenStore | None]) -> None:
    """Raise UserError, on every process, unless all read the same corpora."""

    def explain(index: int, first: str, other: str) -> str:
        return (
            f"process 0 and process {index} read different data ({first}; {other}); give every "
            "process the same files"
        )

    check_same(
        "; ".join(f"{store.report} [{store.checksum:08x}]" for store in stores if store), explain
    )


def _on_all(error: UserError) -> UserError:
    error.on_all_processes = True
    return error


@contextmanager
def together() -> Iterator[None]:
    """Let bad input that one process meets in the ``with`` end all of them, and in order.

    Also a barrier: no process leaves before all have arrived.

    Raises:
        UserError: what any process met, on every process.
    """
    own: UserError | OSError | None = None
    try:
        yield
    except (UserError, OSError) as error:
        own = error
    if jax.process_count() == 1:
        if own is not None:
            raise own
        return
    messages = exchange("" if own is None else str(own) or type(own).__name__)
    failed = [index for index, message in enumerate(messages) if message]
    if not failed:
        return
    if isinstance(own, UserError):
        raise _on_all(own)
    raise _on_all(UserError(f"process {failed[0]}: {messages[failed[0]]}")) from own


class Ballot:
    """Asks after every step whether any process was told to stop, without waiting for the answer.

    The answer comes with the next question, and is the same on every process.
    """

    def __init__(self) -> None:
        """Prepare; nothing is sent yet."""
        self._alone = jax.process_count() == 1
        self._sent: jax.Array | None = None
        if self._alone:
            return
        mesh = Mesh(np.asarray(jax.devices()), ("everyone",))
        self._votes = NamedSharding(mesh, P("everyone"))
        self._count = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

    def ask(self, vote: int) -> int:
        """Cast a vote (0 or more) and return the largest vote of the question before.

        With one process it returns the vote.
        """
        if self._alone:
            return vote
        before = self._sent
        votes = np.full(len(jax.local_devices()), vote, np.int32)
        self._sent = self._count(jax.make_array_from_process_local_data(self._votes, votes))
        return 0 if before is None else int(before)
