"""Rows to be generated: where the target of a source ends, and how long a row need be."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.text.packing import Row

MIN_SOURCE = 4
"""START, one token, END and SEP."""
MIN_TARGET = 3
"""START, one token and END."""


@dataclass(frozen=True)
class RowShape:
    """How many rows a source gets, and how long their targets may be.

    Attributes:
        length: row length L.
        length_beam: lengths per source.
        num_candidates: rows per length.
        max_target: the most target tokens, START and END included; 0 is what the row allows.
    """

    length: int
    length_beam: int
    num_candidates: int
    max_target: int

    def check(self, length_bucket: int, *, has_head: bool) -> None:
        """Raise UserError for what is out of range, or cannot be honoured.

        Args:
            length_bucket: rows are cut to a multiple of it; 0 leaves them whole.
            has_head: whether the model predicts lengths.
        """
        if self.length_beam < 1 or self.max_target < 0 or length_bucket < 0:
            raise UserError(
                f"length_beam={self.length_beam}, max_target={self.max_target} and "
                f"length_bucket={length_bucket} must be at least 1, 0 and 0"
            )
        most = self.length - MIN_SOURCE
        if self.max_target > most:
            raise UserError(
                f"max_target is {self.max_target}; rows of {self.length} positions hold a source "
                f"of one token at least, and a target of at most {most}"
            )
        if 0 < self.max_target < MIN_TARGET:
            raise UserError(
                f"max_target is {self.max_target}; START, a token and END are {MIN_TARGET}"
            )
        if self.length_beam > 1 and not has_head:
            raise UserError(
                f"length_beam is {self.length_beam}, but this model predicts no lengths; train one "
                "with --model.length-head, or leave it at 1"
            )
        lengths = (self.max_target or most) - MIN_TARGET + 1
        if self.length_beam > max(lengths, 1):
            limit = f"max_target {self.max_target}" if self.max_target else f"rows of {self.length}"
            raise UserError(
                f"length_beam is {self.length_beam}, but with {limit} there are {lengths} lengths "
                "to try; give at most that many, and more candidates instead"
            )
        if length_bucket and not has_head and not self.max_target:
            raise UserError(
                "length_bucket needs max_target, the most target tokens, as this model predicts no "
                "lengths"
            )

    def rows(self, sources: Sequence[Row], log_probs: np.ndarray | None, pad_id: int) -> list[Row]:
        """Return ``length_beam * num_candidates`` rows for every source, in order.

        Args:
            sources: packed sources; the rest of each row is to be generated.
            log_probs: [N, lengths], of the number of target tokens; None where it is unknown, and
                the target goes on to the end that ``max_target`` allows.
            pad_id: what stands, given, after the end of a target.
        """
        rows = []
        for index, source in enumerate(sources):
            start = int(np.argmax(source.noise_mask))
            room = self.length - start
            if self.max_target:
                room = min(room, self.max_target)
            lengths = [room]
            if log_probs is not None:
                lengths = likeliest(log_probs[index], room, self.length_beam)
            for target in lengths:
                row = ended(source, start + target, pad_id)
                rows += [row] * self.num_candidates
        return rows


def likeliest(log_probs: np.ndarray, room: int, count: int) -> list[int]:
    """Return the ``count`` likeliest numbers of target tokens, MIN_TARGET to ``room``.

    Where a source leaves room for fewer lengths, they take turns, the likeliest first: what is
    repeated is what is likely, as repeats weigh in a choice among all candidates.
    """
    possible = np.arange(MIN_TARGET, min(room, len(log_probs) - 1) + 1)
    order = possible[np.argsort(-log_probs[possible], kind="stable")].tolist()
    return list(itertools.islice(itertools.cycle(order), count))


def ended(row: Row, end: int, pad_id: int) -> Row:
    """Return a row whose positions from ``end`` on are given: padding."""
    position = np.arange(len(row.input_ids))
    return Row(
        np.where(position < end, row.input_ids, pad_id).astype(row.input_ids.dtype),
        row.noise_mask & (position < end),
    )


def row_end(row: Row, bucket: int | None, length: int) -> int:
    """Return how long a row need be: all of it, or up to a multiple of the bucket past its target.

    Args:
        row: generated positions come last but for given padding.
        bucket: None keeps the whole row.
        length: of the whole row.
    """
    if bucket is None:
        return length
    end = int(np.flatnonzero(row.noise_mask)[-1]) + 1
    return min(length, -(-end // bucket) * bucket)
