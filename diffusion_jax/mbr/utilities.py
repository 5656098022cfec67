"""How well one text agrees with another: sentence BLEU in three dialects, and chrF.

The dialects differ in tokens, smoothing, brevity penalty and scale, so their numbers must not be
compared with each other:

- ``sacrebleu``: sentence BLEU of sacrebleu (13a tokens, exponential smoothing, effective order),
  0 to 100; equal to the library's.
- ``nltk_bleu``: what DiffuSeq reports: tokens between blanks, smoothing method 4 of Chen and Cherry
  (2014) as NLTK has computed it since release 3.7, 0 to 1. Older releases give other numbers.
- ``e2e_bleu``: BLEU+1 of the E2E challenge's scorer: mteval tokens, no case, 1 added to matches and
  totals of every order, 0 to 1. An order for which a text is too short counts as matched.
- ``e2e_bleu_published``: the same as published. There a text of two or fewer tokens divides by
  1e-9, and its score goes into the thousands; for comparison with published choices only.
- ``chrf``: chrF2 of sacrebleu, 0 to 100; equal to the library's.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.mbr.ngrams import Overlap, pairwise_overlap

# Pairs whose matches are held at once; small enough for the processor's cache.
_PAIRS_AT_ONCE = 1 << 16
_METHOD4_K = 5.0
_CHRF_BETA = 2.0


@dataclass(frozen=True)
class NgramUtility:
    """A score of text i against text j that needs only their shared n-grams and lengths.

    Attributes:
        tokenize: text to tokens.
        max_order: the longest n-gram.
        score: overlap of S groups to float64 [S, C, C], hypothesis i against reference j.
    """

    tokenize: Callable[[str], Sequence[Hashable]]
    max_order: int
    score: Callable[[Overlap], np.ndarray]


Utility = str | NgramUtility | Callable[[str, str], float]


def pairwise_utility(groups: Sequence[Sequence[str]], utility: Utility = "sacrebleu") -> np.ndarray:
    """Score every text of a group as a hypothesis against every other as its reference.

    Args:
        groups: S groups of C texts each.
        utility: a name in ``UTILITIES``, or a function of (hypothesis, reference).

    Returns:
        float64 [S, C, C]; [s, i, j] is the utility of hypothesis i against reference j. Only named
        utilities fill the diagonal; a function is not called for it, it stays 0.

    Raises:
        UserError: there are no groups, a group is empty or of another size, or no utility has this
            name.
    """
    check_groups(groups)
    if isinstance(utility, str):
        utility = _named(utility)
    if not isinstance(utility, NgramUtility):
        return _call_for_pairs(groups, utility)
    stride = max(1, _PAIRS_AT_ONCE // len(groups[0]) ** 2)
    scores = []
    for begin in range(0, len(groups), stride):
        tokens = [[utility.tokenize(text) for text in g] for g in groups[begin : begin + stride]]
        scores.append(utility.score(pairwise_overlap(tokens, utility.max_order)))
    return np.concatenate(scores)


def check_groups(groups: Sequence[Sequence[str]]) -> None:
    """Raise UserError unless there are groups, all of one size, of which none is a plain text."""
    if not len(groups):
        raise UserError("there are no candidates; give at least one source with candidates")
    size = len(groups[0])
    for index, group in enumerate(groups):
        if isinstance(group, str):
            raise UserError(f"source {index}: candidates must be a list of texts, not one text")
        if not len(group):
            raise UserError(f"source {index} has no candidates; every source needs at least one")
        if len(group) != size:
            raise UserError(
                f"source {index} has {len(group)} candidates, but source 0 has {size}; every "
                "source needs the same number"
            )


def _named(name: str) -> NgramUtility:
    if name not in UTILITIES:
        raise UserError(f"no utility is called {name!r}; there is: {', '.join(UTILITIES)}")
    return UTILITIES[name]


def _call_for_pairs(
    groups: Sequence[Sequence[str]], utility: Callable[[str, str], float]
) -> np.ndarray:
    size = len(groups[0])
    scores = np.zeros((len(groups), size, size))
    for s, group in enumerate(groups):
        for i, hypothesis in enumerate(group):
            for j, reference in enumerate(group):
                if i != j:
                    scores[s, i, j] = utility(hypothesis, reference)
    return scores


def _sacrebleu(overlap: Overlap) -> np.ndarray:
    """Post (2018), smoothing method 3 of Chen and Cherry (2014), over the orders that exist."""
    matches, totals = overlap.matches, _hypothesis_totals(overlap)
    exists = totals > 0
    missed = exists & (matches == 0)
    numerators = np.where(missed, 0.5 ** np.cumsum(missed, axis=0), matches)
    logs = np.where(exists, _log(numerators) - _log(totals), 0.0)
    orders = np.maximum(exists.sum(axis=0), 1)
    score = 100 * _brevity(overlap) * np.exp(logs.sum(axis=0) / orders)
    return np.where(matches[0] > 0, score, 0.0)


def _nltk_bleu(overlap: Overlap) -> np.ndarray:
    """Smoothing method 4 of Chen and Cherry (2014), as NLTK 3.7 to 3.10 has it."""
    matches, totals = overlap.matches, np.maximum(_hypothesis_totals(overlap), 1)
    missed = matches == 0
    log_length = _log(overlap.totals[0])[:, :, None]
    smoothed = log_length / (_METHOD4_K * 2.0 ** np.cumsum(missed, axis=0))
    numerators = np.where(missed, smoothed, matches)
    # A hypothesis of one token has log length 0: its missed orders are left out, not smoothed.
    logs = _log(numerators / totals)
    score = _brevity(overlap) * np.exp(logs.mean(axis=0))
    return np.where(matches[0] > 0, score, 0.0)


def _e2e_bleu(overlap: Overlap) -> np.ndarray:
    """Add 1 to matches and totals of every order (Lin and Och 2004), empty orders included."""
    logs = np.log((overlap.matches + 1) / (_hypothesis_totals(overlap) + 1))
    return _brevity(overlap) * np.exp(logs.mean(axis=0))


def _e2e_bleu_published(overlap: Overlap) -> np.ndarray:
    """Let the total of an order sink below zero and raise it to 1e-9, as the scorer does."""
    order = np.arange(len(overlap.totals))[:, None, None]
    totals = np.maximum(overlap.totals[0] - order + 1, 1e-9)
    logs = np.log((overlap.matches + 1) / totals[..., None])
    return _brevity(overlap) * np.exp(logs.mean(axis=0))


def _chrf(overlap: Overlap) -> np.ndarray:
    """Popovic (2015): F2 of mean precision and mean recall over the orders that both texts have."""
    hypothesis_totals = _hypothesis_totals(overlap)
    reference_totals = np.swapaxes(hypothesis_totals, 2, 3)
    orders = ((hypothesis_totals > 0) & (reference_totals > 0)).sum(axis=0)
    orders = np.maximum(orders, 1)
    precision = (overlap.matches / np.maximum(hypothesis_totals, 1)).sum(axis=0) / orders
    recall = (overlap.matches / np.maximum(reference_totals, 1)).sum(axis=0) / orders
    weight = _CHRF_BETA**2
    denominator = weight * precision + recall
    product = 100 * (1 + weight) * precision * recall
    return product / np.where(denominator > 0, denominator, 1.0)


def _hypothesis_totals(overlap: Overlap) -> np.ndarray:
    """Return int64 [N, S, C, 1]: n-grams of each hypothesis."""
    return overlap.totals[..., None]


def _brevity(overlap: Overlap) -> np.ndarray:
    """Return float64 [S, C, C]: exp(1 - r / h) for h < r; 0 for an empty hypothesis."""
    hypothesis, reference = overlap.totals[0][:, :, None], overlap.totals[0][:, None, :]
    ratio = reference / np.maximum(hypothesis, 1)
    return np.where(hypothesis > 0, np.exp(np.minimum(1 - ratio, 0.0)), 0.0)


def _log(values: np.ndarray) -> np.ndarray:
    """Return the logarithm, and 0 in place of that of 0."""
    return np.log(np.where(values > 0, values, 1))


@cache
def _mteval() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()


@lru_cache(maxsize=1 << 16)
def _mteval_word(word: str) -> list[str]:
    return _mteval()(word).split()


def _mteval_tokens(text: str) -> list[str]:
    # No rule of the tokenizer looks past a blank, except the one that joins words at a line's end;
    # so words are looked up one by one, which is many times faster.
    if "\n" in text:
        return _mteval()(text.rstrip()).split()
    return [token for word in text.split() for token in _mteval_word(word)]


def _e2e_tokens(text: str) -> list[str]:
    # The scorer splits at single blanks, which makes one empty token of an empty text.
    return _mteval_tokens(text.lower()) or [""]


def _letters(text: str) -> str:
    return "".join(text.split())


UTILITIES = {
    "sacrebleu": NgramUtility(_mteval_tokens, 4, _sacrebleu),
    "nltk_bleu": NgramUtility(str.split, 4, _nltk_bleu),
    "e2e_bleu": NgramUtility(_e2e_tokens, 4, _e2e_bleu),
    "e2e_bleu_published": NgramUtility(_e2e_tokens, 4, _e2e_bleu_published),
    "chrf": NgramUtility(_letters, 6, _chrf),
}
