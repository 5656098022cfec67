"""Drawing a sentence that says given attributes, without trial and error.

All forms of an attribute say all of its values, and a slot draws its value with the same
probabilities wherever it stands. So, given the agreement class, the rules of a derivation depend
only on *which* attributes are said: draw the rules from their distribution given that set, then
fill each slot with a phrase of its value.
"""

from collections.abc import Iterable
from itertools import accumulate
from random import Random

from diffusion_jax.errors import UserError
from diffusion_jax.text.grammar import lexicon
from diffusion_jax.text.grammar.analysis import Inside, Semiring
from diffusion_jax.text.grammar.compiled import BIT, START, CompiledClass, mask_of
from diffusion_jax.text.grammar.derivation import Node, pick
from diffusion_jax.text.grammar.notation import Phrase, Ref, Rule, Slot, Word


def check_attributes(attributes: dict[str, str], values: dict[str, tuple[str, ...]]) -> None:
    """Raise ``UserError`` if an attribute or a value is not one of the grammar's."""
    for attribute, value in attributes.items():
        if attribute not in values:
            raise UserError(f"attribute {attribute!r} is unknown; choose from {', '.join(values)}")
        if value not in values[attribute]:
            allowed = ", ".join(values[attribute])
            raise UserError(f"{attribute} is {value!r}; choose one of {allowed}")


def linearise(attributes: dict[str, str]) -> str:
    """Return attributes as a line of tokens: ``"name : golden fox | food : thai"``."""
    said = [name for name in lexicon.ATTRIBUTES if name in attributes]
    return " | ".join(f"{name} : {attributes[name]}" for name in said)


class ConditionalSampler:
    """Derivations that say exactly the attributes of one set, for one agreement class."""

    def __init__(self, grammar: CompiledClass, attributes: Iterable[str]):
        self.grammar = grammar
        self.target = mask_of(attributes)
        self.inside = Inside(
            grammar,
            Semiring(
                add=lambda a, b: a + b,
                multiply=lambda a, b: a * b,
                rule=lambda rule, probability: probability,
                word=1.0,
                slot=lambda slot: 1.0 if BIT[slot.attribute] & self.target else None,
            ),
        )

    def possible(self) -> bool:
        """Return whether some sentence says exactly these attributes."""
        return self.target in self.inside()

    def draw(self, values: dict[str, str], rng: Random) -> Node:
        """Draw a derivation that says ``values``; there must be one."""
        return self._symbol(START, 0, self.target, values, rng)

    def _symbol(self, symbol: str, mask: int, end: int, values: dict, rng: Random) -> Node:
        rules: list[Rule] = []
        weights: list[float] = []
        for rule, probability in self.inside.alternatives(symbol, mask):
            value = self.inside.prefixes(rule, mask)[-1].get(end)
            if value:
                rules.append(rule)
                weights.append(probability * value)
        rule = rules[pick(tuple(accumulate(weights)), rng)]
        children: list[Phrase | Node] = []
        for leaf, start, stop in self._masks(rule, mask, end, rng):
            if isinstance(leaf, Slot):
                children.append(self._phrase(leaf, values[leaf.attribute], rng))
            elif isinstance(leaf, Ref):
                children.append(self._symbol(leaf.symbol, start, stop, values, rng))
        return Node(rule, tuple(children))

    def _masks(self, rule: Rule, mask: int, end: int, rng: Random) -> list[tuple]:
        """Draw the masks between the leaves of a rule, from its end back to its start."""
        prefixes = [{mask: 1.0}, *self.inside.prefixes(rule, mask)]
        drawn = []
        for leaf, before in zip(reversed(rule.leaves), reversed(prefixes[:-1])):
            ways = [(m, v * self.inside.step(leaf, m).get(end, 0.0)) for m, v in before.items()]
            ways = [(m, weight) for m, weight in ways if weight]
            start = ways[pick(tuple(accumulate(w for _, w in ways)), rng)][0]
            if not isinstance(leaf, Word):
                drawn.append((leaf, start, end))
            end = start
        return drawn[::-1]

    def _phrase(self, slot: Slot, value: str, rng: Random) -> Phrase:
        phrases = [p for p in self.grammar.phrases[slot].phrases if p.value == value]
        return phrases[pick(tuple(accumulate(p.probability for p in phrases)), rng)]
