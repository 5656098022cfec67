"""The values that the grammar hands out: sentences, parses, pairs, entropy estimates."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Sentence:
    """A sentence with one derivation and everything that can be read off it.

    Attributes:
        text: The tokens joined by single spaces.
        tokens: The words and punctuation marks.
        attributes: What the sentence says, in the order of ``lexicon.ATTRIBUTES``.
        pos: The Universal POS tag of each token.
        tree: The constituency tree in Penn bracket notation, rooted in ``TOP``.
        spans: ``(start, end, label)`` of each constituent above the tags, ``end`` inclusive, in
            preorder.
        log_prob: Natural log-probability of the derivation.
    """

    text: str
    tokens: tuple[str, ...]
    attributes: dict[str, str]
    pos: tuple[str, ...]
    tree: str
    spans: tuple[tuple[int, int, str], ...]
    log_prob: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as values that ``json.dumps`` takes."""
        return asdict(self)


@dataclass(frozen=True)
class Parse:
    """What the chart says about a sentence of the language.

    Attributes:
        log_prob: Natural log-probability of the sentence, summed over its derivations.
        best: The sentence with its most probable derivation.
    """

    log_prob: float
    best: Sentence


@dataclass(frozen=True)
class Pair:
    """A source and a target text that say the same ``attributes``."""

    src: str
    trg: str
    attributes: dict[str, str]


@dataclass(frozen=True)
class EntropyEstimate:
    """Entropy of the source in nats, with standard errors.

    ``nats_per_token`` is nats per sentence over tokens per sentence. Tokens are those that are
    printed; the end of a sentence costs nats like any other choice but is not counted as a token.
    """

    nats_per_sentence: float
    se_sentence: float
    nats_per_token: float
    se_token: float
    tokens_per_sentence: float


def estimate_entropy(log_probs: list[float], lengths: list[int]) -> EntropyEstimate:
    """Estimate the entropy from independent sentences.

    Args:
        log_probs: Exact log-probability of each sampled sentence; at least two.
        lengths: Number of tokens of each.
    """
    n = len(log_probs)
    mean = -math.fsum(log_probs) / n
    tokens = sum(lengths) / n
    ratio = mean / tokens
    # The ratio of two means: delta method on the residuals nats - ratio * tokens.
    variance = math.fsum((-p - mean) ** 2 for p in log_probs) / (n - 1)
    residual = math.fsum((-p - ratio * m) ** 2 for p, m in zip(log_probs, lengths)) / (n - 1)
    return EntropyEstimate(
        mean, math.sqrt(variance / n), ratio, math.sqrt(residual / n) / tokens, tokens
    )
