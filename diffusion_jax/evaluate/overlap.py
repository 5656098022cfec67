"""How close texts are to their references, by the words and letters that they share.

All functions take hypotheses and references [S], aligned, and return one number for the set. Where
a source has several references, they are the items of a list in place of its one.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from diffusion_jax.errors import UserError
from diffusion_jax.mbr import Utility, pairwise_utility

References = Sequence[str] | Sequence[Sequence[str]]
"""One text for each source, or a list of one or more."""

_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")


def reference_groups(references: References) -> list[list[str]]:
    """Return the references of each source as a list."""
    return [[group] if isinstance(group, str) else list(group) for group in references]


def reference_columns(references: References) -> list[Any]:
    """Return the first, second, ... reference of all sources, None where a source has fewer.

    sacrebleu takes that, and its types do not say so.
    """
    return list(itertools.zip_longest(*reference_groups(references)))


def corpus_bleu(hypotheses: Sequence[str], references: References) -> float:
    """Return sacrebleu's corpus BLEU (Post 2018), 0 to 100."""
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(force=True)
    return float(bleu.corpus_score(hypotheses, reference_columns(references)).score)


def corpus_chrf(hypotheses: Sequence[str], references: References) -> float:
    """Return sacrebleu's corpus chrF2 (Popovic 2015), 0 to 100."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score(hypotheses, reference_columns(references)).score)


def mean_sentence_utility(
    hypotheses: Sequence[str], references: References, utility: Utility
) -> float:
    """Return the mean utility of a hypothesis against its reference, on the utility's scale.

    Raises:
        UserError: a source has several references.
    """
    groups = reference_groups(references)
    if any(len(group) > 1 for group in groups):
        raise UserError(
            "BLEU of single sentences has one reference a source, and here are several; give one, "
            "or take the preset standard"
        )
    pairs = [(text, *group) for text, group in zip(hypotheses, groups, strict=True)]
    return float(pairwise_utility(pairs, utility)[:, 0, 1].mean())


def rouge_l(
    hypotheses: Sequence[str], references: References, dtype: DTypeLike = np.float64
) -> float:
    """Return the mean F-measure of the longest common subsequence (Lin 2004), 0 to 1.

    Words are runs of a-z and 0-9 in lower case, without stemming, as in the usual scorers. Of
    several references the nearest counts.

    Args:
        hypotheses: texts [S].
        references: texts [S], or lists of them.
        dtype: precision of one pair's score; published scorers keep float32.
    """
    scores = [
        max(_rouge_l_of_pair(_words(hypothesis), _words(reference)) for reference in group)
        for hypothesis, group in zip(hypotheses, reference_groups(references), strict=True)
    ]
    return float(np.array(scores, dtype).mean(dtype=np.float64))


def exact_match(hypotheses: Sequence[str], references: References) -> float:
    """Return the share of texts that equal a reference of theirs, blanks at the ends apart."""
    pairs = zip(hypotheses, reference_groups(references), strict=True)
    return float(
        np.mean(
            [text.strip() in [reference.strip() for reference in group] for text, group in pairs]
        )
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
