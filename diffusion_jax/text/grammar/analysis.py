"""Exact facts about a grammar, by dynamic programming over its symbols and masks."""

from collections import defaultdict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from diffusion_jax.text.grammar.compiled import BIT, START, CompiledClass
from diffusion_jax.text.grammar.notation import Leaf, Ref, Rule, Slot, Word

V = TypeVar("V")


class Semiring(NamedTuple, Generic[V]):
    """What to compute: how alternatives add, how parts multiply, and the value of each part.

    ``slot`` returns None where the slot must not be used.
    """

    add: Callable[[V, V], V]
    multiply: Callable[[V, V], V]
    rule: Callable[[Rule, float], V]
    word: V
    slot: Callable[[Slot], V | None]


class Inside(Generic[V]):
    """The value of each symbol at each mask, split by the mask at which it ends."""

    def __init__(self, grammar: CompiledClass, semiring: Semiring[V]):
        self.grammar = grammar
        self.semiring = semiring
        self._values: dict[tuple[str, int], dict[int, V]] = {}

    def __call__(self, symbol: str = START, mask: int = 0) -> dict[int, V]:
        """Return the value of ``symbol`` from ``mask``, by the mask at its end."""
        key = (symbol, mask)
        if key not in self._values:
            values: dict[int, V] = {}
            for rule, probability in self.alternatives(symbol, mask):
                ends = self.prefixes(rule, mask)[-1]
                factor = self.semiring.rule(rule, probability)
                for end, value in ends.items():
                    _accumulate(values, end, self.semiring.multiply(factor, value), self.semiring)
            self._values[key] = values
        return self._values[key]

    def alternatives(self, symbol: str, mask: int) -> list[tuple[Rule, float]]:
        """Return the rules that may rewrite ``symbol`` at ``mask``, with their probabilities."""
        choices = self.grammar.choices(symbol, mask)
        return list(zip(choices.rules, choices.probabilities))

    def step(self, leaf: Leaf, mask: int) -> dict[int, V]:
        """Return the value of one leaf from ``mask``, by the mask after it."""
        if isinstance(leaf, Word):
            return {mask: self.semiring.word}
        if isinstance(leaf, Ref):
            return self(leaf.symbol, mask)
        value = self.semiring.slot(leaf)
        return {} if value is None else {mask | BIT[leaf.attribute]: value}

    def prefixes(self, rule: Rule, mask: int) -> list[dict[int, V]]:
        """Return, after each leaf of a rule, the value of the leaves so far by mask."""
        done = [self.step(rule.leaves[0], mask)]
        for leaf in rule.leaves[1:]:
            values: dict[int, V] = {}
            for middle, before in done[-1].items():
                for end, value in self.step(leaf, middle).items():
                    _accumulate(values, end, self.semiring.multiply(before, value), self.semiring)
            done.append(values)
        return done


def _accumulate(values: dict[int, V], end: int, value: V, semiring: Semiring[V]) -> None:
    values[end] = semiring.add(values[end], value) if end in values else value


def _plus(a, b):
    return a + b


def _times(a, b):
    return a * b


def total_probability(grammar: CompiledClass) -> float:
    """Return the sum of the probabilities of all derivations (one, up to rounding)."""
    inside = Inside(
        grammar,
        Semiring(
            add=_plus,
            multiply=_times,
            rule=lambda rule, probability: probability,
            word=1.0,
            slot=lambda slot: sum(p.probability for p in grammar.phrases[slot].phrases),
        ),
    )
    return sum(inside().values())


def count_derivations(grammar: CompiledClass) -> int:
    """Return the exact number of derivations."""
    inside = Inside(
        grammar,
        Semiring(
            add=_plus,
            multiply=_times,
            rule=lambda rule, probability: 1,
            word=1,
            slot=lambda slot: len(grammar.phrases[slot].phrases),
        ),
    )
    return sum(inside().values())


def _extreme_length(grammar: CompiledClass, choose: Callable[..., int]) -> int:
    inside = Inside(
        grammar,
        Semiring(
            add=choose,
            multiply=_plus,
            rule=lambda rule, probability: 0,
            word=1,
            slot=lambda slot: choose(len(p.words) for p in grammar.phrases[slot].phrases),
        ),
    )
    return choose(inside().values())


def length_range(grammar: CompiledClass) -> tuple[int, int]:
    """Return the numbers of tokens of the shortest and of the longest derivation."""
    return _extreme_length(grammar, min), _extreme_length(grammar, max)


def unused_rules(grammar: CompiledClass) -> list[Rule]:
    """Return the rules that no derivation uses."""
    used: set[Rule] = set()
    seen: set[tuple[str, int]] = set()
    agenda = [(START, 0)]
    while agenda:
        symbol, mask = agenda.pop()
        if (symbol, mask) in seen:
            continue
        seen.add((symbol, mask))
        for rule in grammar.choices(symbol, mask).rules:
            used.add(rule)
            masks = {mask}
            for leaf in rule.leaves:
                if isinstance(leaf, Slot):
                    masks = {m | BIT[leaf.attribute] for m in masks}
                elif isinstance(leaf, Ref):
                    agenda.extend((leaf.symbol, m) for m in masks)
                    masks = set().union(*(grammar.outcomes(leaf.symbol, m) for m in masks))
    return [rule for rules in grammar.rules.values() for rule in rules if rule not in used]


class SentenceCounter:
    """The exact number of distinct sentences, by determinising the grammar.

    A configuration is what is still to come after a prefix: a stack of leaves, and the mask. All
    configurations that share a prefix are followed at once, so that a sentence with several
    derivations is counted once. How an article is spelled follows from the next word and changes
    no count.
    """

    def __init__(self, grammar: CompiledClass):
        self.grammar = grammar
        self._counts: dict[frozenset, int] = {}

    def count(self) -> int:
        """Return the number of distinct sentences."""
        return self._count(frozenset([((Ref(START),), 0)]))

    def _count(self, configurations: frozenset) -> int:
        if configurations not in self._counts:
            followers: dict[str, set] = defaultdict(set)
            finished = 0
            for stack, mask in configurations:
                finished |= not stack
                for word, rest, after in self._next_words(stack, mask):
                    followers[word].add((rest, after))
            # Words after which the same configurations remain are counted together.
            classes: dict[frozenset, int] = defaultdict(int)
            for after in followers.values():
                classes[frozenset(after)] += 1
            total = sum(times * self._count(after) for after, times in classes.items())
            self._counts[configurations] = finished + total
        return self._counts[configurations]

    def _next_words(self, stack: tuple, mask: int):
        if not stack:
            return
        leaf, rest = stack[0], stack[1:]
        if isinstance(leaf, Word):
            yield leaf.text, rest, mask
        elif isinstance(leaf, Ref):
            for rule in self.grammar.choices(leaf.symbol, mask).rules:
                yield from self._next_words(rule.leaves + rest, mask)
        else:
            for phrase in self.grammar.phrases[leaf].phrases:
                tail = tuple(Word(word, "") for word in phrase.words[1:])
                yield phrase.words[0], tail + rest, mask | BIT[leaf.attribute]
