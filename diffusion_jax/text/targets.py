"""Rows to be generated: where the target of a source ends, and how long a row need be."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusion_jax.text.packing import Row

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

    Where fewer lengths are possible, the least likely of them is repeated.
    """
    possible = np.arange(MIN_TARGET, min(room, len(log_probs) - 1) + 1)
    order = possible[np.argsort(-log_probs[possible], kind="stable")].tolist()
    return (order + order[-1:] * count)[:count]


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
