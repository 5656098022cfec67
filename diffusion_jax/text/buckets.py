"""Batches of rows of about one length, cut to it, so that short rows do not pay for long ones.

Like ``text.loader``: any step's batch can be made without the ones before, and the order does not
depend on the number of processes.
"""

from functools import lru_cache

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.text.loader import RowTable, own_rows, permutation

_ROWS_PER_READ = 65536
_BATCH_ORDER = 1
"""The stream of random bits that orders batches; stream 0 orders rows."""


def row_ends(table: RowTable, pad_id: int, bucket: int) -> np.ndarray:
    """Return how long each row is, rounded up to a multiple of ``bucket``: int32 [N].

    A row ends after its last token that is not padding; no end is past the length L of the table.
    """
    ends = np.empty(len(table), np.int32)
    for first in range(0, len(table), _ROWS_PER_READ):
        chosen = np.arange(first, min(first + _ROWS_PER_READ, len(table)))
        used = table.rows(chosen)["input_ids"] != pad_id
        length = used.shape[1]
        last = np.where(used.any(axis=1), length - np.argmax(used[:, ::-1], axis=1), 1)
        ends[chosen] = np.minimum(-(-last // bucket) * bucket, length)
    return ends


def bucket_ends(
    table: RowTable, pad_id: int, bucket: int, global_batch_size: int
) -> np.ndarray | None:
    """Return how long each row is, for a ``BucketLoader``; None where the bucket is 0.

    Raises:
        UserError: the table does not fill one batch.
    """
    if bucket == 0:
        return None
    check_enough_rows(table, global_batch_size)
    return row_ends(table, pad_id, bucket)


def check_enough_rows(table: RowTable, global_batch_size: int) -> None:
    """Raise UserError where the table does not fill one batch."""
    if len(table) < global_batch_size:
        raise UserError(
            f"the corpus has {len(table)} rows, fewer than the {global_batch_size} of one batch; "
            "with data.length_bucket, give a smaller train.batch_size"
        )


class BucketLoader:
    """Training batches without end, each of rows with one end, shuffled anew in every epoch.

    An epoch leaves out the rows that do not fill a batch, drawn anew each time. What a length has
    left over after whole batches goes into the batches of the next greater one.
    """

    def __init__(
        self,
        store: RowTable,
        global_batch_size: int,
        seed: int,
        *,
        ends: np.ndarray,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Prepare to read batches.

        Args:
            store: The table of rows.
            global_batch_size: Rows per step, over all processes.
            seed: Of the shuffling.
            ends: How long each row is, int [N], as from ``row_ends``.
            process_index: Which process this is.
            process_count: How many processes share the batch.

        Raises:
            UserError: The batch is larger than the table, not positive or not divisible by the
                process count, or the seed is negative.
        """
        if seed < 0:
            raise UserError(f"the seed is {seed}, but must be 0 or more")
        self._own = own_rows(global_batch_size, process_index, process_count)
        check_enough_rows(store, global_batch_size)
        self.store = store
        self.global_batch_size = global_batch_size
        self._ends = ends
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which the next epoch begins."""
        return len(self.store) // self.global_batch_size

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Return this process's rows of the batch of ``step`` (from 0).

        Returns:
            ``input_ids`` [B, L'] int32 and ``noise_mask`` [B, L'] bool, B being the local batch and
            L' the end of the longest row in the global one; other arrays [B, L] are cut likewise.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        rows = self._epoch(epoch)[index]
        end = int(self._ends[rows].max())
        batch = self.store.rows(rows[self._own.start : self._own.stop])
        shape = batch["input_ids"].shape
        return {name: x[:, :end] if x.shape[:2] == shape else x for name, x in batch.items()}

    def _make_epoch(self, epoch: int) -> np.ndarray:
        """Return the rows of every batch of an epoch, [steps, B]."""
        steps = self.steps_per_epoch
        order = permutation(len(self.store), self._seed, epoch)[: steps * self.global_batch_size]
        # Sorted by end, and by the shuffle within it: cutting this into batches passes what one
        # length has left over on to the next.
        order = order[np.argsort(self._ends[order], kind="stable")]
        batches = order.reshape(steps, self.global_batch_size)
        return batches[permutation(steps, self._seed, epoch, stream=_BATCH_ORDER)]
