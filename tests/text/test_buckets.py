"""Rows of about one length share a batch; every row still comes, in an order one can resume."""

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.text.buckets import BucketLoader, row_ends

PAD, L, N, BATCH, BUCKET = 0, 20, 103, 8, 5


class Table:
    """Row n holds its number n + 1 at the start, and is ``lengths[n]`` tokens long."""

    def __init__(self, count=N):
        self.lengths = np.random.default_rng(0).integers(1, L + 1, count)

    def __len__(self):
        return len(self.lengths)

    def rows(self, indices):
        inside = np.arange(L)[None, :] < self.lengths[indices][:, None]
        return {
            "input_ids": np.where(inside, indices[:, None] + 1, PAD),
            "noise_mask": np.arange(L)[None, :] >= self.lengths[indices][:, None] // 2,
            "weight": np.asarray(indices),
        }


TABLE = Table()
ENDS = row_ends(TABLE, PAD, BUCKET)


def loader(**options):
    return BucketLoader(TABLE, BATCH, seed=3, ends=ENDS, **options)


def numbers(batch):
    return (batch["input_ids"][:, 0] - 1).tolist()


def test_ends_are_the_next_multiples():
    assert ENDS.tolist() == [-(-length // BUCKET) * BUCKET for length in TABLE.lengths]
    # A multiple past the row ends with the row; padding inside it is no end; nothing is something.
    rows = np.asarray([[1, 0, 2, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    table = type("Rows", (), {"__len__": lambda s: 3, "rows": lambda s, i: {"input_ids": rows[i]}})
    assert row_ends(table(), PAD, 4).tolist() == [4, 5, 4]


def test_rows_are_cut_where_the_longest_of_the_batch_ends():
    for step in range(loader().steps_per_epoch):
        batch = loader().batch_at(step)
        end = max(ENDS[numbers(batch)])
        assert batch["input_ids"].shape == batch["noise_mask"].shape == (BATCH, end)
        whole = TABLE.rows(np.asarray(numbers(batch)))
        np.testing.assert_array_equal(batch["input_ids"], whole["input_ids"][:, :end])
        np.testing.assert_array_equal(batch["noise_mask"], whole["noise_mask"][:, :end])
        assert not np.any(whole["input_ids"][:, end:])
        assert batch["weight"].shape == (BATCH,)


def test_most_batches_hold_rows_of_one_end():
    batches = [numbers(loader().batch_at(step)) for step in range(loader().steps_per_epoch)]
    mixed = [rows for rows in batches if len(set(ENDS[rows])) > 1]
    assert len(mixed) <= len(set(ENDS)) - 1
    assert [max(ENDS[rows]) for rows in batches] != sorted(max(ENDS[rows]) for rows in batches)


def test_an_epoch_leaves_out_a_part_of_a_batch_and_not_always_the_same():
    steps = loader().steps_per_epoch
    assert steps == N // BATCH
    left_out = []
    for epoch in range(3):
        seen = [
            n for step in range(steps) for n in numbers(loader().batch_at(epoch * steps + step))
        ]
        assert len(seen) == len(set(seen)) == steps * BATCH
        left_out.append(set(range(N)) - set(seen))
    assert left_out[0] != left_out[1] != left_out[2]
    assert numbers(loader().batch_at(0)) != numbers(loader().batch_at(steps))


def test_a_step_needs_no_step_before_it_and_processes_share_it():
    fresh, used = loader(), loader()
    for step in range(30):
        used.batch_at(step)
    whole = fresh.batch_at(29)
    np.testing.assert_array_equal(whole["input_ids"], used.batch_at(29)["input_ids"])
    parts = [loader(process_index=i, process_count=2).batch_at(29) for i in range(2)]
    np.testing.assert_array_equal(
        np.concatenate([part["input_ids"] for part in parts]), whole["input_ids"]
    )


def test_a_table_smaller_than_a_batch_is_refused():
    with pytest.raises(UserError, match=r"7 rows, fewer than the 8 of one batch"):
        BucketLoader(Table(7), BATCH, seed=0, ends=np.full(7, L))
