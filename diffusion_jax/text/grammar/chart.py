"""A chart parser: membership, inside probability and best derivation in one pass.

Top-down from left to right, with every (symbol, position, mask) worked out once. The mask is part
of the item because a rule's probability depends on what has been said before it. The inside
algorithm is that of Baker (1979), over items that carry the mask at both ends.
"""

from collections.abc import Sequence
from typing import NamedTuple

from diffusion_jax.text.grammar.compiled import BIT, START, CompiledClass
from diffusion_jax.text.grammar.derivation import Node, takes_an
from diffusion_jax.text.grammar.notation import Rule, Slot, Word

_WORD, _SLOT, _REF = range(3)


class Item(NamedTuple):
    """One way a symbol can end: where, with what said, how probably.

    ``inside`` sums over derivations; ``best`` is the probability of ``node``, the most probable.
    """

    end: int
    mask: int
    inside: float
    best: float
    node: Node


def normalise(tokens: Sequence[str]) -> list[str] | None:
    """Return the words with each article as "a", or None if one has the wrong form."""
    words = list(tokens)
    for i, word in enumerate(words):
        if word in ("a", "an"):
            if i + 1 == len(words) or (word == "an") != takes_an(words[i + 1]):
                return None
            words[i] = "a"
    return words


class Chart:
    """The parser of one compiled class; it keeps what does not depend on the sentence."""

    def __init__(self, grammar: CompiledClass):
        self.grammar = grammar
        self._steps: dict[Rule, tuple] = {}
        self._predictions: dict[tuple[str, int], dict[str, tuple]] = {}

    def parse(self, words: Sequence[str]) -> Item | None:
        """Return the item that covers all words (articles as "a"), or None outside the language."""
        if not self.grammar.vocabulary.issuperset(words):
            return None
        items = _Sentence(self, words).expand(START, 0, 0)
        whole = [item for item in items if item.end == len(words)]
        if not whole:
            return None
        best = max(whole, key=lambda item: item.best)
        return best._replace(inside=sum(item.inside for item in whole))

    def predict(self, symbol: str, mask: int) -> dict[str, tuple]:
        """Return, for each first word, the rules to try: ``(rule, probability, steps)``."""
        key = (symbol, mask)
        table = self._predictions.get(key)
        if table is None:
            lists: dict[str, list] = {}
            choices = self.grammar.choices(symbol, mask)
            for rule, probability in zip(choices.rules, choices.probabilities):
                for word in self.grammar.first_words(rule):
                    lists.setdefault(word, []).append((rule, probability, self._compiled(rule)))
            table = self._predictions[key] = {word: tuple(rules) for word, rules in lists.items()}
        return table

    def _compiled(self, rule: Rule) -> tuple:
        if rule not in self._steps:
            self._steps[rule] = tuple(self._step(leaf) for leaf in rule.leaves)
        return self._steps[rule]

    def _step(self, leaf):
        if isinstance(leaf, Word):
            return _WORD, leaf.text, 0
        if isinstance(leaf, Slot):
            return _SLOT, self.grammar.phrases[leaf].by_word, BIT[leaf.attribute]
        return _REF, leaf.symbol, 0


class _Sentence:
    """The chart of one sentence."""

    def __init__(self, chart: Chart, words: Sequence[str]):
        self.predict = chart.predict
        # The end mark stands for "no word": it begins nothing and matches nothing.
        self.words = (*words, "")
        self.items: dict[tuple[str, int, int], tuple[Item, ...]] = {}

    def expand(self, symbol: str, start: int, mask: int) -> tuple[Item, ...]:
        """Return the items of ``symbol`` from ``start`` on."""
        key = (symbol, start, mask)
        known = self.items.get(key)
        if known is not None:
            return known
        found: dict[tuple[int, int], Item] = {}
        for rule, probability, steps in self.predict(symbol, mask).get(self.words[start], ()):
            partial = [(start, mask, probability, probability, ())]
            for step in steps:
                partial = self.advance(partial, step)
                if not partial:
                    break
            for end, said, inside, best, children in partial:
                item = Item(end, said, inside, best, Node(rule, children))
                other = found.get((end, said))
                if other is not None:
                    better = item if best > other.best else other
                    item = better._replace(inside=inside + other.inside)
                found[end, said] = item
        items = self.items[key] = tuple(found.values())
        return items

    def advance(self, partial: list[tuple], step: tuple) -> list[tuple]:
        """Match one leaf of a rule after each partial match."""
        kind, content, bit = step
        words = self.words
        if kind == _WORD:
            return [(p[0] + 1, *p[1:]) for p in partial if words[p[0]] == content]
        longer: list[tuple] = []
        for position, mask, inside, best, children in partial:
            if kind == _SLOT:
                for phrase in content.get(words[position], ()):
                    end = position + len(phrase.words)
                    if words[position:end] == phrase.words:
                        p = phrase.probability
                        longer.append((end, mask | bit, inside * p, best * p, (*children, phrase)))
            else:
                for item in self.expand(content, position, mask):
                    node = (*children, item.node)
                    longer.append(
                        (item.end, item.mask, inside * item.inside, best * item.best, node)
                    )
        return longer
