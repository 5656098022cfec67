"""The grammar of one agreement class, with the probability of each choice worked out.

The state of a derivation, carried from left to right, is the set of attributes said so far, as a
bit mask. A rule can be chosen at a mask when every derivation that it opens can be completed, and
the weights of the rules that can be chosen are normalised. So no derivation gets stuck, and
probabilities sum to one at every choice.
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from diffusion_jax.text.grammar import lexicon
from diffusion_jax.text.grammar.notation import (
    Phrase,
    Ref,
    Rule,
    Slot,
    Word,
    read_phrases,
    read_rules,
)

START = "top"
BIT = {attribute: 1 << i for i, attribute in enumerate(lexicon.ATTRIBUTES)}


def mask_of(attributes: Iterable[str]) -> int:
    """Return the bit mask of a set of attributes."""
    return sum(BIT[attribute] for attribute in attributes)


class Choices(NamedTuple):
    """The rules that may rewrite a symbol at a mask."""

    rules: tuple[Rule, ...]
    probabilities: tuple[float, ...]
    cumulative: tuple[float, ...]


class Phrases(NamedTuple):
    """The phrases that may fill a slot."""

    phrases: tuple[Phrase, ...]
    cumulative: tuple[float, ...]
    by_word: dict[str, tuple[Phrase, ...]]


def _phrases(listed: list[Phrase]) -> Phrases:
    by_word: dict[str, list[Phrase]] = {}
    for phrase in listed:
        by_word.setdefault(phrase.words[0], []).append(phrase)
    cumulative = tuple(accumulate(phrase.probability for phrase in listed))
    return Phrases(tuple(listed), cumulative, {w: tuple(p) for w, p in by_word.items()})


class CompiledClass:
    """Rules and phrases of one size for one agreement class."""

    def __init__(self, size: str, subject: str):
        self.subject = subject
        self.probability = lexicon.CLASS_WEIGHTS[subject] / sum(lexicon.CLASS_WEIGHTS.values())
        self.rules = read_rules(size, subject)
        self.phrases = {slot: _phrases(p) for slot, p in read_phrases(size, subject).items()}
        self._outcomes: dict[tuple[str, int], frozenset[int]] = {}
        self._choices: dict[tuple[str, int], Choices] = {}
        self._first_words: dict[str, frozenset[str]] = {}
        self.vocabulary = frozenset(self._words())

    def _words(self) -> set[str]:
        leaves = {leaf for rules in self.rules.values() for rule in rules for leaf in rule.leaves}
        words = {leaf.text for leaf in leaves if isinstance(leaf, Word)}
        for leaf in leaves:
            if isinstance(leaf, Slot):
                words.update(word for p in self.phrases[leaf].phrases for word in p.words)
        return words

    def rule_outcomes(self, rule: Rule, mask: int) -> frozenset[int]:
        """Return the masks that a rule may end in, none if it cannot be chosen at ``mask``."""
        masks = frozenset([mask])
        for leaf in rule.leaves:
            if isinstance(leaf, Slot):
                bit = BIT[leaf.attribute]
                if any(m & bit for m in masks):
                    return frozenset()
                masks = frozenset(m | bit for m in masks)
            elif isinstance(leaf, Ref):
                ends = [self.outcomes(leaf.symbol, m) for m in masks]
                if not all(ends):
                    return frozenset()
                masks = frozenset().union(*ends)
        return masks

    def outcomes(self, symbol: str, mask: int) -> frozenset[int]:
        """Return the masks that a symbol may end in, none if it cannot be rewritten at ``mask``."""
        key = (symbol, mask)
        if key not in self._outcomes:
            ends = (self.rule_outcomes(rule, mask) for rule in self.rules[symbol])
            self._outcomes[key] = frozenset().union(*ends)
        return self._outcomes[key]

    def choices(self, symbol: str, mask: int) -> Choices:
        """Return the rules that may rewrite ``symbol`` at ``mask``, with their probabilities."""
        key = (symbol, mask)
        if key not in self._choices:
            rules = tuple(r for r in self.rules[symbol] if self.rule_outcomes(r, mask))
            total = sum(rule.weight for rule in rules)
            probabilities = tuple(rule.weight / total for rule in rules)
            self._choices[key] = Choices(rules, probabilities, tuple(accumulate(probabilities)))
        return self._choices[key]

    def first_words(self, rule: Rule) -> frozenset[str]:
        """Return the words that a derivation from ``rule`` may begin with."""
        leaf = rule.leaves[0]
        if isinstance(leaf, Word):
            return frozenset([leaf.text])
        if isinstance(leaf, Slot):
            return frozenset(self.phrases[leaf].by_word)
        if leaf.symbol not in self._first_words:
            firsts = (self.first_words(r) for r in self.rules[leaf.symbol])
            self._first_words[leaf.symbol] = frozenset().union(*firsts)
        return self._first_words[leaf.symbol]
