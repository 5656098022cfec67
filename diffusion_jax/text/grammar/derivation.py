"""Derivations: drawing one from left to right, and reading sentence, tags and tree off it."""

import math
from bisect import bisect
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from diffusion_jax.text.grammar import lexicon
from diffusion_jax.text.grammar.compiled import BIT, START, CompiledClass
from diffusion_jax.text.grammar.notation import (
    Bracket,
    Phrase,
    Ref,
    Rule,
    Slot,
    Template,
    Word,
    label_of,
)
from diffusion_jax.text.grammar.sentence import Sentence


class Node(NamedTuple):
    """A rule with what fills its slots and symbols, from left to right."""

    rule: Rule
    children: tuple["Phrase | Node", ...]


class Tree(NamedTuple):
    """A constituent, or a tag with its word."""

    label: str
    children: "tuple[Tree, ...] | str"


def pick(cumulative: tuple[float, ...], rng: Random) -> int:
    """Draw an index from cumulative weights."""
    index = bisect(cumulative, rng.random() * cumulative[-1])
    return min(index, len(cumulative) - 1)


def draw(grammar: CompiledClass, rng: Random) -> tuple[Node, float]:
    """Draw a derivation; return it with its log-probability, the class's included."""

    def expand(symbol: str, mask: int) -> tuple[Node, int, float]:
        choices = grammar.choices(symbol, mask)
        index = pick(choices.cumulative, rng)
        rule, probability = choices.rules[index], choices.probabilities[index]
        children: list[Phrase | Node] = []
        for leaf in rule.leaves:
            if isinstance(leaf, Slot):
                phrases = grammar.phrases[leaf]
                phrase = phrases.phrases[pick(phrases.cumulative, rng)]
                children.append(phrase)
                probability *= phrase.probability
                mask |= BIT[leaf.attribute]
            elif isinstance(leaf, Ref):
                child, mask, inner = expand(leaf.symbol, mask)
                children.append(child)
                probability *= inner
        return Node(rule, tuple(children)), mask, probability

    node, _, probability = expand(START, 0)
    return node, math.log(grammar.probability * probability)


def log_prob_of(grammar: CompiledClass, node: Node) -> float:
    """Return the log-probability of a derivation, the class's included."""

    def measure(node: Node, mask: int) -> tuple[float, int]:
        choices = grammar.choices(node.rule.symbol, mask)
        probability = choices.probabilities[choices.rules.index(node.rule)]
        for child in node.children:
            if isinstance(child, Phrase):
                inner, mask = child.probability, mask | BIT[child.attribute]
            else:
                inner, mask = measure(child, mask)
            probability *= inner
        return probability, mask

    return math.log(grammar.probability * measure(node, 0)[0])


def spell(words: list[str]) -> tuple[str, ...]:
    """Return the words with each indefinite article in the form that the next word asks for."""
    following = [*words[1:], ""]
    return tuple(
        "an" if word == "a" and takes_an(after) else word for word, after in zip(words, following)
    )


def takes_an(word: str) -> bool:
    """Return whether the indefinite article before ``word`` is "an"."""
    return word.startswith(tuple("aeiou")) and word not in lexicon.CONSONANT_SOUND


def words_of(node: Node) -> tuple[str, ...]:
    """Return the tokens of a derivation."""
    return spell(list(_words(node)))


def _words(node: Node) -> Iterator[str]:
    children = iter(node.children)
    for leaf in node.rule.leaves:
        if isinstance(leaf, Word):
            yield leaf.text
            continue
        child = next(children)
        if isinstance(child, Phrase):
            yield from child.words
        else:
            yield from _words(child)


def attributes_of(node: Node) -> dict[str, str]:
    """Return what a derivation says, in the order of ``lexicon.ATTRIBUTES``."""
    said = dict(_said(node))
    return {name: said[name] for name in lexicon.ATTRIBUTES if name in said}


def _said(node: Node) -> Iterator[tuple[str, str]]:
    for child in node.children:
        if isinstance(child, Phrase):
            yield child.attribute, child.value
        else:
            yield from _said(child)


def _constituents(template: Template, children: Iterator) -> Iterator[Tree]:
    for item in template:
        if isinstance(item, Word):
            yield Tree(item.tag, item.text)
        elif isinstance(item, Bracket):
            yield _constituent(item.label, _constituents(item.items, children))
        else:
            child = next(children)
            if isinstance(child, Phrase):
                yield from _constituents(child.template, iter(()))
            else:
                yield from _trees(child)


def _trees(node: Node) -> Iterator[Tree]:
    inner = _constituents(node.rule.template, iter(node.children))
    label = label_of(node.rule.symbol)
    if label is None:
        yield from inner
    else:
        yield _constituent(label, inner)


def _constituent(label: str, inner: Iterator[Tree]) -> Tree:
    children = tuple(inner)
    # A bracket around one bracket of the same label says nothing.
    if len(children) == 1 and children[0].label == label:
        return children[0]
    return Tree(label, children)


def _bracketed(tree: Tree, words: Iterator[str]) -> str:
    if isinstance(tree.children, str):
        return f"({tree.label} {next(words)})"
    return f"({tree.label} {' '.join(_bracketed(child, words) for child in tree.children)})"


def _tagged(tree: Tree) -> Iterator[tuple[str, str]]:
    if isinstance(tree.children, str):
        yield tree.children, tree.label
    else:
        for child in tree.children:
            yield from _tagged(child)


def _spans(tree: Tree, start: int, spans: list[tuple[int, int, str]]) -> int:
    if isinstance(tree.children, str):
        return start + 1
    place = len(spans)
    spans.append((start, start, tree.label))
    end = start
    for child in tree.children:
        end = _spans(child, end, spans)
    spans[place] = (start, end - 1, tree.label)
    return end


def universal_tag(word: str, tag: str) -> str:
    """Return the Universal POS tag of a word with its Penn tag."""
    return lexicon.UNIVERSAL_WORD.get((word, tag)) or lexicon.UNIVERSAL_TAG[tag]


def sentence_of(node: Node, log_prob: float) -> Sentence:
    """Return the sentence that a derivation yields."""
    tokens = words_of(node)
    tree = Tree("TOP", tuple(_trees(node)))
    spans: list[tuple[int, int, str]] = []
    _spans(tree, 0, spans)
    return Sentence(
        text=" ".join(tokens),
        tokens=tokens,
        attributes=attributes_of(node),
        pos=tuple(universal_tag(word, tag) for word, tag in _tagged(tree)),
        tree=_bracketed(tree, iter(tokens)),
        spans=tuple(spans),
        log_prob=log_prob,
    )
