"""Clipped n-gram matches of all pairs of texts in each group, counted with numpy."""

import itertools
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np


class Overlap(NamedTuple):
    """What BLEU and chrF are computed from, for S groups of C texts and n-grams of 1 to N tokens.

    Attributes:
        matches: int64 [N, S, C, C]; n-grams that text i and text j share, each counted as often as
            the text that has it less often; symmetric in i and j.
        totals: int64 [N, S, C]; n-grams of each text; ``totals[0]`` are the lengths.
    """

    matches: np.ndarray
    totals: np.ndarray


def pairwise_overlap(groups: Sequence[Sequence[Sequence[Hashable]]], max_order: int) -> Overlap:
    """Count the n-grams that every two texts of a group share.

    Args:
        groups: S groups of C texts, each a sequence of tokens (characters of a string will do).
        max_order: N, the longest n-gram.

    Returns:
        The matches of all pairs and the totals.
    """
    num_texts = len(groups[0])
    texts = list(itertools.chain.from_iterable(groups))
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    totals = np.maximum(lengths - np.arange(max_order)[:, None], 0)
    totals = totals.reshape(max_order, len(groups), num_texts)
    vocabulary: defaultdict[Hashable, int] = defaultdict(itertools.count().__next__)
    tokens = np.array([vocabulary[token] for text in texts for token in text], dtype=np.int64)
    text_of = np.repeat(np.arange(len(texts)), lengths)
    matches = totals[..., None] * np.eye(num_texts, dtype=np.int64)

    # An n-gram is named by its group, its first n - 1 tokens and its last. The first two are one
    # number from the round before, so that sorting by name also sorts by group.
    start = np.arange(len(tokens))
    prefix = text_of // num_texts
    for order in range(max_order):
        inside = start + order < len(tokens)
        inside[inside] = text_of[start[inside]] == text_of[start[inside] + order]
        start, prefix = start[inside], prefix[inside]
        _, first, name = np.unique(
            prefix * len(vocabulary) + tokens[start + order],
            return_index=True,
            return_inverse=True,
        )
        counts = np.bincount(
            text_of[start] % num_texts * len(first) + name, minlength=num_texts * len(first)
        ).reshape(num_texts, len(first))
        # What one text alone has matches nowhere, and neither does anything that begins with it.
        shared = np.count_nonzero(counts, axis=0) > 1
        if not shared.any():
            break
        group_of = text_of[start[first[shared]]] // num_texts
        _add_matches(matches[order], counts[:, shared], group_of)
        kept = shared[name]
        start, prefix = start[kept], name[kept]
    return Overlap(matches, totals)


def _add_matches(matches: np.ndarray, counts: np.ndarray, group_of: np.ndarray) -> None:
    """Sum min(count in i, count in j) over the n-grams of each group, where i and j differ.

    Args:
        matches: int64 [S, C, C], written to.
        counts: int64 [C, G]; how often each text of its group has each of G n-grams.
        group_of: int64 [G], ascending.
    """
    begin = np.flatnonzero(np.diff(group_of, prepend=-1))
    groups = group_of[begin]
    for i in range(len(counts) - 1):
        smaller = np.minimum(counts[i], counts[i + 1 :])
        sums = np.add.reduceat(smaller, begin, axis=1).T
        matches[groups, i, i + 1 :] = sums
        matches[groups, i + 1 :, i] = sums
