"""Rows to be generated: lengths that are tried, padding that is given, rows cut to buckets."""

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.text.packing import Row
from diffusion_jax.text.targets import RowShape, ended, likeliest, row_end

PAD = 9
LENGTH = 12


def source(count):
    position = np.arange(LENGTH)
    return Row(np.where(position < count, 1, PAD).astype(np.int32), position >= count)


def test_unknown_lengths_leave_the_rest_of_the_row():
    (row,) = RowShape(LENGTH, 1, 1, 0).rows([source(4)], None, PAD)
    np.testing.assert_array_equal(row.noise_mask, np.arange(LENGTH) >= 4)
    (row,) = RowShape(LENGTH, 1, 1, 5).rows([source(4)], None, PAD)
    np.testing.assert_array_equal(np.flatnonzero(row.noise_mask), [4, 5, 6, 7, 8])


def test_a_beam_tries_the_likeliest_lengths_each_with_all_candidates():
    log_probs = np.log(np.array([[0.3, 0.0001, 0.0001, 0.1, 0.2, 0.05, 0.25, 0.0001, 0.0001]]))
    rows = RowShape(LENGTH, 2, 3, 0).rows([source(4)], log_probs, PAD)
    # Length 0 is likeliest, but START, a word and END are 3.
    assert [int(row.noise_mask.sum()) for row in rows] == [6, 6, 6, 4, 4, 4]
    for row in rows:
        end = 4 + int(row.noise_mask.sum())
        np.testing.assert_array_equal(row.input_ids[end:], PAD)
        np.testing.assert_array_equal(row.input_ids[:4], 1)


@pytest.mark.parametrize(
    ("room", "count", "lengths"), [(8, 2, [6, 4]), (4, 5, [4, 3, 4, 3, 4]), (3, 2, [3, 3])]
)
def test_lengths_stay_within_their_room(room, count, lengths):
    log_probs = np.log(np.array([0.9, 0.1, 0.1, 0.1, 0.2, 0.05, 0.25, 0.001, 0.001]))
    assert likeliest(log_probs, room, count) == lengths


@pytest.mark.parametrize(
    ("beam", "max_target", "lengths"),
    # Rows of 12: a source of one token leaves 8, and a target has 3 or more.
    [(7, 0, 6), (200, 0, 6), (4, 5, 3), (2, 3, 1)],
)
def test_more_lengths_than_there_are_are_refused(beam, max_target, lengths):
    with pytest.raises(UserError, match=f"length_beam is {beam}, .* there are {lengths} lengths"):
        RowShape(LENGTH, beam, 1, max_target).check(0, has_head=True)
    RowShape(LENGTH, lengths, 1, max_target).check(0, has_head=True)


def test_rows_end_at_a_bucket_past_their_target():
    row = ended(source(3), 7, PAD)
    assert row_end(row, None, LENGTH) == LENGTH
    assert [row_end(row, bucket, LENGTH) for bucket in (1, 4, 7, 8, 100)] == [7, 8, 7, 8, LENGTH]
