"""The grammar as its users see it: sample, parse, measure, pair."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate, islice
from random import Random

from diffusion_jax.errors import UserError
from diffusion_jax.text.grammar import lexicon
from diffusion_jax.text.grammar.chart import Chart, normalise
from diffusion_jax.text.grammar.compiled import CompiledClass
from diffusion_jax.text.grammar.derivation import draw, pick, sentence_of, words_of
from diffusion_jax.text.grammar.sentence import (
    EntropyEstimate,
    Parse,
    Sentence,
    estimate_entropy,
)

LENGTHS = {"small": (5, 16), "full": (5, 40)}
SPLITS = ("train", "validation", "test")


def split_of(text: str) -> str:
    """Return the split that a sentence belongs to, forever: 90% train, 5% validation, 5% test."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    return "train" if number < 90 else "validation" if number < 95 else "test"


def _stream(*names: object) -> Random:
    # random() of a generator seeded by an integer gives the same numbers in every Python version.
    return Random(int.from_bytes(hashlib.sha256(repr(names).encode()).digest(), "big"))


class Grammar:
    """A probabilistic grammar of restaurant descriptions; get one from ``load_grammar``.

    Attributes:
        size: ``"small"`` or ``"full"``.
        min_length: Fewest tokens of a sentence.
        max_length: Most tokens of a sentence.
    """

    def __init__(self, size: str):
        self.size = size
        self.min_length, self.max_length = LENGTHS[size]
        self.classes = {subject: CompiledClass(size, subject) for subject in lexicon.CLASS_WEIGHTS}
        self._charts = [Chart(compiled) for compiled in self.classes.values()]
        self._order = tuple(self.classes.values())
        self._cumulative = tuple(accumulate(c.probability for c in self._order))

    def vocabulary(self) -> tuple[str, ...]:
        """Return every token of the language, in alphabetical order."""
        words = set().union(*(compiled.vocabulary for compiled in self._order))
        return tuple(sorted(words | {"an"}))

    def sample(self, rng: Random) -> Sentence:
        """Draw one sentence."""
        return sentence_of(*draw(self._order[pick(self._cumulative, rng)], rng))

    def parse(self, text: str | Sequence[str]) -> Parse | None:
        """Parse a text (tokens between single spaces) or tokens; None outside the language."""
        tokens = text.split(" ") if isinstance(text, str) else text
        words = normalise(tokens)
        if words is None:
            return None
        total, best = 0.0, None
        for chart in self._charts:
            item = chart.parse(words)
            if item is not None:
                share = chart.grammar.probability
                total += share * item.inside
                if best is None or share * item.best > best[0]:
                    best = share * item.best, item.node
        if best is None:
            return None
        return Parse(math.log(total), sentence_of(best[1], math.log(best[0])))

    def accepts(self, text: str | Sequence[str]) -> bool:
        """Return whether a text is a sentence of the language."""
        return self.parse(text) is not None

    def log_prob(self, text: str | Sequence[str]) -> float:
        """Return the natural log-probability of a text, minus infinity outside the language."""
        parse = self.parse(text)
        return -math.inf if parse is None else parse.log_prob

    def corpus(
        self, seed: int, n: int, split: str = "train", *, distinct: bool = False
    ) -> list[Sentence]:
        """Draw ``n`` sentences of a split, the same on every machine.

        Args:
            seed: Names the stream; ``corpus(seed, n)`` begins like ``corpus(seed, m)``.
            n: Number of sentences.
            split: ``"train"``, ``"validation"`` or ``"test"``. A sentence belongs to one split for all seeds.
            distinct: Leave out sentences that were drawn before.
        """
        return list(islice(self._draws(seed, split, "corpus", distinct), n))

    def _draws(self, seed: int, split: str, use: str, distinct: bool) -> Iterator[Sentence]:
        if split not in SPLITS:
            raise UserError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
        rng = _stream(self.size, use, split, seed)
        seen: set[str] = set()
        while True:
            node, log_prob = draw(self._order[pick(self._cumulative, rng)], rng)
            text = " ".join(words_of(node))
            if split_of(text) != split or (distinct and text in seen):
                continue
            if distinct:
                seen.add(text)
            yield sentence_of(node, log_prob)

    def entropy(self, seed: int, n: int) -> EntropyEstimate:
        """Estimate the entropy of the source from ``n`` (at least 2) sentences and their exact log-probability."""
        rng = _stream(self.size, "entropy", seed)
        sentences = [self.sample(rng) for _ in range(n)]
        return estimate_entropy(
            [self.log_prob(s.tokens) for s in sentences], [len(s.tokens) for s in sentences]
        )


@cache
def load_grammar(size: str) -> Grammar:
    """Return the grammar of a size: ``"small"`` (5 to 16 tokens) or ``"full"`` (5 to 40).

    Raises:
        UserError: If there is no such size.
    """
    if size not in LENGTHS:
        raise UserError(f"grammar size is {size!r}; choose one of {', '.join(LENGTHS)}")
    return Grammar(size)
