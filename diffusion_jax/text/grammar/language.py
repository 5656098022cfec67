"""The grammar as its users see it: sample, parse, measure, pair."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate, islice
from random import Random

from diffusion_jax.errors import UserError
from diffusion_jax.text.grammar import lexicon
from diffusion_jax.text.grammar.analysis import SentenceCounter
from diffusion_jax.text.grammar.chart import Chart, normalise
from diffusion_jax.text.grammar.compiled import CompiledClass
from diffusion_jax.text.grammar.derivation import (
    draw,
    log_prob_of,
    pick,
    sentence_of,
    words_of,
)
from diffusion_jax.text.grammar.notation import Slot
from diffusion_jax.text.grammar.pairing import ConditionalSampler, check_attributes, linearise
from diffusion_jax.text.grammar.sentence import (
    EntropyEstimate,
    Pair,
    Parse,
    Sentence,
    estimate_entropy,
)

LENGTHS = {"small": (5, 16), "full": (5, 40)}
# Draws without a new sentence after which a request for distinct ones is given up.
_MAX_MISSES = 20_000
# Draws of a paraphrase after which its source is given up.
_MAX_PARAPHRASE_DRAWS = 200
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
        self._subjects = {
            phrase.value: subject
            for subject, compiled in self.classes.items()
            for phrase in compiled.phrases[Slot("name", "")].phrases
        }
        self._samplers: dict[tuple, ConditionalSampler] = {}
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
            seed: Names the stream; a larger ``n`` continues the corpus of a smaller one.
            n: Number of sentences.
            split: ``"train"``, ``"validation"`` or ``"test"``. A sentence belongs to one split, for
                all seeds.
            distinct: Leave out sentences that were drawn before.

        Raises:
            UserError: If there is no such split, ``n`` is negative, or the split has not ``n``
                distinct sentences within reach.
        """
        return self._take(n, self._draws(seed, split, "corpus", distinct))

    @staticmethod
    def _take(n: int, sentences: Iterator[Sentence]) -> list[Sentence]:
        if n < 0:
            raise UserError(f"n is {n}; give the number of sentences, 0 or more")
        return list(islice(sentences, n))

    def _draws(self, seed: int, split: str, use: str, distinct: bool) -> Iterator[Sentence]:
        if split not in SPLITS:
            raise UserError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
        rng = _stream(self.size, use, split, int(seed))
        seen: set[str] = set()
        misses = 0
        while misses < _MAX_MISSES:
            node, log_prob = draw(self._order[pick(self._cumulative, rng)], rng)
            text = " ".join(words_of(node))
            misses += 1
            if split_of(text) != split or text in seen:
                continue
            misses = 0
            if distinct:
                seen.add(text)
            yield sentence_of(node, log_prob)
        raise UserError(
            f"no new sentence in {_MAX_MISSES} draws after {len(seen)} distinct ones of the "
            f"{split} split; ask for fewer, or allow repeated sentences"
        )

    def entropy(self, seed: int, n: int) -> EntropyEstimate:
        """Estimate the entropy of the source from ``n`` sentences (at least two).

        Each sentence counts with its exact log-probability, summed over its derivations.
        """
        if n < 2:
            raise UserError(f"n is {n}; a standard error takes at least 2 sentences")
        rng = _stream(self.size, "entropy", int(seed))
        sentences = [self.sample(rng) for _ in range(n)]
        return estimate_entropy(
            [self.log_prob(s.tokens) for s in sentences], [len(s.tokens) for s in sentences]
        )

    def count_sentences(self) -> int:
        """Return the exact number of distinct sentences (a few seconds for ``full``)."""
        # Classes share no sentence: each sentence has one name, and no name is in two classes.
        return sum(SentenceCounter(compiled).count() for compiled in self._order)

    def values(self) -> dict[str, tuple[str, ...]]:
        """Return the values of each attribute."""
        names = [p.value for c in self._order for p in c.phrases[Slot("name", "")].phrases]
        values: dict[str, dict[str, None]] = {name: {} for name in lexicon.ATTRIBUTES}
        values["name"] = dict.fromkeys(names)
        for slot, phrases in self._order[0].phrases.items():
            if slot.attribute != "name":
                values[slot.attribute].update(dict.fromkeys(p.value for p in phrases.phrases))
        return {attribute: tuple(listed) for attribute, listed in values.items()}

    def realise(self, attributes: dict[str, str], rng: Random) -> Sentence:
        """Draw a sentence that says exactly ``attributes``, from its distribution given them.

        Raises:
            UserError: If an attribute or value is unknown, or no sentence says exactly these.
        """
        check_attributes(attributes, self.values())
        return self._realise(attributes, rng)

    def _realise(self, attributes: dict[str, str], rng: Random) -> Sentence:
        sampler = self._sampler(attributes)
        node = sampler.draw(attributes, rng)
        return sentence_of(node, log_prob_of(sampler.grammar, node))

    def _sampler(self, attributes: dict[str, str]) -> ConditionalSampler:
        subject = self._subjects.get(attributes.get("name", ""))
        key = (subject, frozenset(attributes))
        if key not in self._samplers:
            sampler = ConditionalSampler(self.classes[subject], attributes) if subject else None
            if sampler is None or not sampler.possible():
                said = linearise(attributes) or "nothing"
                raise UserError(f"no sentence says exactly {said}; give a name and another one")
            self._samplers[key] = sampler
        return self._samplers[key]

    def data_to_text(self, seed: int, n: int, split: str = "train") -> list[Pair]:
        """Draw ``n`` pairs of linearised attributes and a sentence of the split that says them."""
        sentences = self._take(n, self._draws(seed, split, "data_to_text", False))
        return [Pair(linearise(s.attributes), s.text, s.attributes) for s in sentences]

    def paraphrases(self, seed: int, n: int, split: str = "train") -> list[Pair]:
        """Draw ``n`` pairs of different sentences of the split that say the same attributes.

        A source for which no paraphrase of its split turns up in 200 draws is left out.
        """
        pairs: list[Pair] = []
        rng = _stream(self.size, "paraphrase", split, int(seed))
        sources = self._draws(seed, split, "paraphrases", False)
        while len(pairs) < n:
            source = next(sources)
            for _ in range(_MAX_PARAPHRASE_DRAWS):
                node = self._sampler(source.attributes).draw(source.attributes, rng)
                text = " ".join(words_of(node))
                if text != source.text and split_of(text) == split:
                    pairs.append(Pair(source.text, text, source.attributes))
                    break
        return pairs

    def says(self, text: str | Sequence[str], attributes: dict[str, str]) -> bool:
        """Return whether ``text`` is a sentence of the language that says exactly ``attributes``.

        What a sentence says is read off its best parse. Where a sentence has several parses they
        differ in structure only: all of them say the same.
        """
        parse = self.parse(text)
        return parse is not None and parse.best.attributes == attributes


@cache
def load_grammar(size: str) -> Grammar:
    """Return the grammar of a size: ``"small"`` (5 to 16 tokens) or ``"full"`` (5 to 40).

    Raises:
        UserError: If there is no such size.
    """
    if size not in LENGTHS:
        raise UserError(f"grammar size is {size!r}; choose one of {', '.join(LENGTHS)}")
    return Grammar(size)
