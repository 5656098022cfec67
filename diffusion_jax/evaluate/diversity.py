"""How varied texts are: within a text, and among the candidates of one source."""

from collections.abc import Sequence

import numpy as np

from diffusion_jax.mbr import Utility, pairwise_utility


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return the mean share of distinct n-grams within a text (dist-n); a text without any is 0."""
    shares = []
    for text in texts:
        ngrams = _ngrams(text.split(), n)
        shares.append(len(set(ngrams)) / len(ngrams) if ngrams else 0.0)
    return float(np.mean(shares))


def mean_length(texts: Sequence[str]) -> float:
    """Return the mean number of words between blanks."""
    return float(np.mean([len(text.split()) for text in texts]))


def self_bleu(
    candidates: Sequence[Sequence[str]], utility: Utility, *, both_ways: bool = True
) -> float:
    """Return how alike the candidates of a source are, averaged over pairs, then over sources.

    Args:
        candidates: S sources with C >= 2 candidates each.
        utility: the sentence BLEU; the result is on its scale. Lower is more diverse.
        both_ways: average over each pair in both roles; DiffuSeq scores an earlier candidate
            against a later one only, which depends on their order.
    """
    matrix = pairwise_utility(candidates, utility)
    pairs = np.ones(matrix.shape[1:], dtype=bool)
    pairs = ~np.eye(len(pairs), dtype=bool) if both_ways else np.triu(pairs, k=1)
    return float(matrix[:, pairs].mean(axis=1).mean())


def div_n(candidates: Sequence[Sequence[str]], n: int = 4) -> float:
    """Return the share of distinct n-grams in all candidates of a source, averaged over sources.

    A source whose candidates are all shorter than n counts as 0. Higher is more diverse.
    """
    shares = []
    for group in candidates:
        ngrams = [ngram for text in group for ngram in _ngrams(text.split(), n)]
        shares.append(len(set(ngrams)) / len(ngrams) if ngrams else 0.0)
    return float(np.mean(shares))


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(n))))
