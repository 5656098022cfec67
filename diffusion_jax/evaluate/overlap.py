"""How close texts are to their references, by the words and letters that they share.

All functions take hypotheses and references [S], aligned, and return one number for the set.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from diffusion_jax.mbr import Utility, pairwise_utility

_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Return sacrebleu's corpus BLEU (Post 2018), 0 to 100."""
    from sacrebleu.metrics.bleu import BLEU

    return float(BLEU(force=True).corpus_score(hypotheses, [references]).score)


def corpus_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Return sacrebleu's corpus chrF2 (Popovic 2015), 0 to 100."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score(hypotheses, [references]).score)


def mean_sentence_utility(
    hypotheses: Sequence[str], references: Sequence[str], utility: Utility
) -> float:
    """Return the mean utility of a hypothesis against its reference, on the utility's scale."""
    pairs = list(zip(hypotheses, references, strict=True))
    return float(pairwise_utility(pairs, utility)[:, 0, 1].mean())


def rouge_l(
    hypotheses: Sequence[str], references: Sequence[str], dtype: DTypeLike = np.float64
) -> float:
    """Return the mean F-measure of the longest common subsequence (Lin 2004), 0 to 1.

    Words are runs of a-z and 0-9 in lower case, without stemming, as in the usual scorers.

    Args:
        hypotheses: texts [S].
        references: texts [S].
        dtype: precision of one pair's score; published scorers keep float32.
    """
    scores = [
        _rouge_l_of_pair(_words(hypothesis), _words(reference))
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    return float(np.array(scores, dtype).mean(dtype=np.float64))


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of texts that equal their reference, blanks at the ends apart."""
    pairs = zip(hypotheses, references, strict=True)
    return float(
        np.mean([hypothesis.strip() == reference.strip() for hypothesis, reference in pairs])
    )


def _words(text: str) -> list[str]:
    return _NOT_ALPHANUMERIC.sub(" ", text.lower()).split()


def _rouge_l_of_pair(hypothesis: list[str], reference: list[str]) -> float:
    if not hypothesis or not reference:
        return 0.0
    common = _longest_common_subsequence(hypothesis, reference)
    if common == 0:
        return 0.0
    precision, recall = common / len(hypothesis), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def _longest_common_subsequence(first: list[str], second: list[str]) -> int:
    """Return its length; one row of the table is the bits of one integer (Hyyro 2004)."""
    places: dict[str, int] = {}
    for index, word in enumerate(second):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(second)) - 1
    # A cleared bit is a column at which the row's value grows by one.
    row = full
    for word in first:
        matched = row & places.get(word, 0)
        row = (row + matched) | (row - matched)
    return len(second) - (row & full).bit_count()
