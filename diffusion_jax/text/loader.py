"""Batches as a pure function of the step: any step's batch can be made without the ones before.

The global batch is formed first and each process then takes its own rows of it, so the order of
the data does not depend on the number of processes.
"""

from functools import lru_cache
from typing import Protocol

import numpy as np

from diffusion_jax.errors import UserError


class RowTable(Protocol):
    """Packed rows by number, as ``text.store.TokenStore``."""

    def __len__(self) -> int: ...

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return arrays [B, ...] of the given rows: ``input_ids``, ``noise_mask`` and others."""
        ...


class CheckedRowTable(RowTable, Protocol):
    """Rows to learn from: a resumed run must know them again."""

    @property
    def checksum(self) -> int:
        """The same wherever the same rows are."""
        ...


class Loader:
    """Training batches without end, shuffled anew in every epoch; no row is left out.

    Epochs follow each other without a gap: a batch may hold the last rows of one epoch and the
    first of the next. The order comes from raw Philox bits, which are the same on every machine
    and NumPy version. A permutation takes 8 bytes per row, two epochs are kept.
    """

    def __init__(
        self,
        store: RowTable,
        global_batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Prepare to read batches.

        Args:
            store: The table of rows.
            global_batch_size: Rows per step, over all processes.
            seed: Of the shuffling.
            shuffle: Whether to shuffle; otherwise every epoch has the order of the table.
            process_index: Which process this is.
            process_count: How many processes share the batch.

        Raises:
            UserError: The batch size is not positive or not divisible by the process count, or
                the seed is negative.
        """
        if seed < 0:
            raise UserError(f"the seed is {seed}, but must be 0 or more")
        self._own = own_rows(global_batch_size, process_index, process_count)
        self.store = store
        self.global_batch_size = global_batch_size
        self._order = lru_cache(maxsize=2)(
            lambda epoch: permutation(len(store), seed, epoch) if shuffle else None
        )

    @property
    def steps_per_epoch(self) -> float:
        """Steps after which every row was seen once more."""
        return len(self.store) / self.global_batch_size

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Return this process's rows of the batch of ``step`` (from 0).

        Returns:
            ``input_ids`` [B, L] int32 and ``noise_mask`` [B, L] bool, B being the local batch.
        """
        first = step * self.global_batch_size
        positions = np.arange(first + self._own.start, first + self._own.stop)
        return self.store.rows(self._row_indices(positions))

    def _row_indices(self, positions: np.ndarray) -> np.ndarray:
        """Return the table rows at positions of the endless sequence of epochs."""
        epochs, offsets = np.divmod(positions, len(self.store))
        indices = offsets.copy()
        for epoch in np.unique(epochs):
            order = self._order(int(epoch))
            if order is not None:
                here = epochs == epoch
                indices[here] = order[offsets[here]]
        return indices


class EvalLoader:
    """Every row once, in the order of the table; the last batch is filled up with weight 0."""

    def __init__(
        self,
        store: RowTable,
        global_batch_size: int,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Prepare to read batches; arguments and errors as for ``Loader``."""
        self._own = own_rows(global_batch_size, process_index, process_count)
        self.store = store
        self.global_batch_size = global_batch_size

    def __len__(self) -> int:
        """Return the number of batches, the partial one included."""
        return -(-len(self.store) // self.global_batch_size)

    def batch_at(self, index: int) -> dict[str, np.ndarray]:
        """Return this process's rows of batch ``index`` (from 0).

        Returns:
            ``input_ids`` [B, L] int32, ``noise_mask`` [B, L] bool and ``weight`` [B] float32: 1
            for a row of the table, 0 for filling (which repeats the last row).
        """
        first = index * self.global_batch_size
        positions = np.arange(first + self._own.start, first + self._own.stop)
        last_row = len(self.store) - 1
        batch = self.store.rows(np.minimum(positions, last_row))
        batch["weight"] = (positions <= last_row).astype(np.float32)
        return batch


def filled_batches(count: int, batch_size: int) -> list[np.ndarray]:
    """Return which rows each batch holds: all of one size, the last filled up with the last row."""
    return [
        np.minimum(np.arange(start, start + batch_size), count - 1)
        for start in range(0, count, batch_size)
    ]


def own_rows(global_batch_size: int, process_index: int, process_count: int) -> range:
    """Return which rows of a global batch belong to one process."""
    if global_batch_size < 1:
        raise UserError(f"the batch size is {global_batch_size}, but must be 1 or more")
    if global_batch_size % process_count:
        raise UserError(
            f"the global batch size {global_batch_size} is not divisible by the number of "
            f"processes, {process_count}; choose a multiple of {process_count}"
        )
    local = global_batch_size // process_count
    return range(process_index * local, (process_index + 1) * local)


def permutation(count: int, seed: int, epoch: int, *, stream: int = 0) -> np.ndarray:
    """Return a permutation of ``count`` rows that depends on seed, epoch and stream alone.

    Streams are for permutations of different things in one epoch, numbered from 0.
    """
    philox = np.random.Philox(key=np.asarray([seed, epoch], np.uint64), counter=stream << 128)
    bits = philox.random_raw(count)
    return np.argsort(bits, kind="stable")
