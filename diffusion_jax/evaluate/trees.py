"""From a chart of span labels to one tree, and how well two trees agree.

A classifier labels every span on its own; ``best_tree`` finds the bracketing that all of them
together like best (CKY over span scores, as Stern et al. 2017 decode).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.text.labels import SpanLabels
from diffusion_jax.text.trees import ROOTS, UNARY, Span


class Agreement(NamedTuple):
    """How well found constituents agree with wanted ones.

    Attributes:
        precision: share of those found that are wanted.
        recall: share of those wanted that are found.
        f1: their harmonic mean.
    """

    precision: float
    recall: float
    f1: float


def best_tree(log_probs: np.ndarray, labels: SpanLabels) -> tuple[Span, ...]:
    """Return the constituents of the most likely consistent bracketing.

    The score of a bracketing is the sum of ``log p(label) - log p(no constituent)`` over its
    constituents, each with its best label; a binary node whose best label is "no constituent" costs
    nothing, so that trees of any arity are compared, and texts of several trees too.

    Args:
        log_probs: [N, N, C] log-probabilities of the spans from token i to token j (j included) of
            N tokens: the part of the classifier's chart between START and END.
        labels: what the C classes are; the first is "no constituent".

    Returns:
        Spans (start, end, label) in preorder.

    Raises:
        UserError: the chart is not [N, N, C] with N at least 1.
    """
    if log_probs.ndim != 3 or log_probs.shape[0] != log_probs.shape[1] or not len(log_probs):
        raise UserError(f"the chart has shape {log_probs.shape}; it must be [N, N, C], N >= 1")
    if log_probs.shape[2] != labels.num_classes:
        raise UserError(
            f"the chart has {log_probs.shape[2]} classes, the labels {labels.num_classes}"
        )
    count = len(log_probs)
    best_label = 1 + np.argmax(log_probs[:, :, 1:], axis=-1)
    gain = np.max(log_probs[:, :, 1:], axis=-1) - log_probs[:, :, 0]
    own = np.maximum(gain, 0.0)
    total = np.zeros((count, count))
    split = np.zeros((count, count), int)
    for width in range(count):
        for start in range(count - width):
            end = start + width
            total[start, end] = own[start, end]
            if width:
                # Left part ends at k, right part begins behind it.
                parts = total[start, start:end] + total[start + 1 : end + 1, end]
                split[start, end] = start + int(np.argmax(parts))
                total[start, end] += np.max(parts)
    found: list[Span] = []
    pending = [(0, count - 1)]
    while pending:
        start, end = pending.pop()
        if gain[start, end] > 0:
            found.append((start, end, labels.labels[best_label[start, end]]))
        if start < end:
            middle = int(split[start, end])
            pending += [(middle + 1, end), (start, middle)]
    return tuple(found)


def labelled_f1(wanted: Iterable[Sequence[Span]], found: Iterable[Sequence[Span]]) -> Agreement:
    """Return labelled precision, recall and F1 over all sentences together, as EVALB counts.

    The labels of a unary chain count one by one; roots do not count.

    Args:
        wanted: constituents of each sentence.
        found: likewise, in the same order.

    Raises:
        UserError: the numbers of sentences differ.
    """
    wanted, found = list(wanted), list(found)
    if len(wanted) != len(found):
        raise UserError(f"there are {len(wanted)} wanted trees and {len(found)} found ones")
    right = num_wanted = num_found = 0
    for these, those in zip(wanted, found):
        first, second = _brackets(these), _brackets(those)
        right += (first & second).total()
        num_wanted += first.total()
        num_found += second.total()
    if not num_wanted and not num_found:
        return Agreement(1.0, 1.0, 1.0)
    precision, recall = right / max(num_found, 1), right / max(num_wanted, 1)
    return Agreement(precision, recall, 2 * right / (num_wanted + num_found))


def _brackets(spans: Iterable[Span]) -> Counter:
    return Counter(
        (start, end, name)
        for start, end, label in spans
        for name in label.split(UNARY)
        if name not in ROOTS
    )
