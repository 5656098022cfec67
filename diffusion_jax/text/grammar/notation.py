"""Read the notation of ``rules.py`` and ``lexicon.py`` into rules and phrases."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from diffusion_jax.text.grammar import lexicon
from diffusion_jax.text.grammar.rules import RULES

CLASSES = tuple(lexicon.CLASS_WEIGHTS)
_RULE_LINE = re.compile(
    r"(?P<weight>\d+)(?P<full>\*?)\s+(?:(?P<classes>[\w,]+):\s+)?(?P<template>.+)"
)
_VALUE_LINE = re.compile(r"(?P<value>.+?) (?P<weight>\d+)(?P<full>\*?)\s*\|(?P<forms>.+)")


class Word(NamedTuple):
    """A terminal: a word with its Penn tag."""

    text: str
    tag: str


class Slot(NamedTuple):
    """A place where the value of ``attribute`` is said in ``form``."""

    attribute: str
    form: str


class Ref(NamedTuple):
    """A symbol to rewrite."""

    symbol: str


class Bracket(NamedTuple):
    """A labelled constituent of a template."""

    label: str
    items: tuple


Leaf = Word | Slot | Ref
Template = tuple[Leaf | Bracket, ...]


@dataclass(frozen=True, eq=False)
class Rule:
    """One way to rewrite ``symbol``."""

    symbol: str
    weight: int
    template: Template
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True, eq=False)
class Phrase:
    """One way to say a value of an attribute, with its probability in the slot that it fills."""

    attribute: str
    value: str
    probability: float
    template: Template
    words: tuple[str, ...]


def label_of(symbol: str) -> str | None:
    """Return the Penn label that a symbol adds to the tree, or None."""
    label, colon, _ = symbol.partition(":")
    return label if colon else None


def _agreeing(form: str, subject: str) -> Word:
    if form in lexicon.PRONOUNS:
        text, _, tag = lexicon.PRONOUNS[form][CLASSES.index(subject)].partition("/")
        return Word(text, tag)
    plural, singular = lexicon.VERBS[form]
    return Word(plural, "VBP") if subject == "they" else Word(singular, "VBZ")


def _leaf(text: str, subject: str) -> Leaf:
    if text.startswith("@"):
        return _agreeing(text[1:], subject)
    if text.startswith("$"):
        attribute, _, form = text[1:].partition(":")
        return Slot(attribute, form)
    word, slash, tag = text.rpartition("/")
    return Word(word, tag) if slash else Ref(text)


def read_template(text: str, subject: str) -> Template:
    """Read a bracketed template, with agreeing words in the form that ``subject`` asks for."""
    stack: list[list] = [[]]
    labels: list[str] = []
    for token in re.findall(r"\(\S+|\)|[^\s()]+", text):
        if token.startswith("("):
            labels.append(token[1:])
            stack.append([])
        elif token == ")":
            items = tuple(stack.pop())
            stack[-1].append(Bracket(labels.pop(), items))
        else:
            stack[-1].append(_leaf(token, subject))
    if labels or len(stack) != 1:
        raise ValueError(f"unbalanced brackets in {text!r}")
    return tuple(stack[0])


def leaves_of(template: Template) -> tuple[Leaf, ...]:
    """Return the leaves of a template from left to right."""
    leaves: list[Leaf] = []
    for item in template:
        leaves.extend(leaves_of(item.items) if isinstance(item, Bracket) else (item,))
    return tuple(leaves)


def _sections(text: str) -> Iterator[tuple[str, str]]:
    heading = ""
    for line in filter(str.strip, re.sub(r"\n\s+\|", " |", text).splitlines()):
        if line[0].isspace():
            yield heading, line.strip()
        else:
            heading = line.strip()


def _is_for(classes: str | None, subject: str) -> bool:
    return classes is None or subject in classes.replace("people", "they,she,he").split(",")


def read_rules(size: str, subject: str) -> dict[str, list[Rule]]:
    """Return the rules of each symbol for one size and one agreement class."""
    rules: dict[str, list[Rule]] = {}
    for symbol, line in _sections(RULES):
        match = _RULE_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"not a rule: {line!r}")
        if (match["full"] and size != "full") or not _is_for(match["classes"], subject):
            continue
        template = read_template(match["template"], subject)
        rule = Rule(symbol, int(match["weight"]), template, leaves_of(template))
        rules.setdefault(symbol, []).append(rule)
    return rules


def _phrase(attribute: str, value: str, probability: float, text: str, subject: str) -> Phrase:
    template = read_template(text, subject)
    words = tuple(leaf.text for leaf in leaves_of(template) if isinstance(leaf, Word))
    return Phrase(attribute, value, probability, template, words)


def read_names(size: str, subject: str) -> list[Phrase]:
    """Return the names of one agreement class."""
    small, _, rest = lexicon.NAMES[subject].partition(";")
    listed = small if size == "small" else f"{small},{rest}"
    names = [" ".join(name.split()) for name in listed.split(",")]
    phrases = []
    for name in names:
        if subject in ("she", "he"):
            value, text = f"chef {name}", f"chef/NNP {name}/NNP"
        else:
            first, last = name.split()
            value, text = (
                name,
                f"the/DT {first}/NNP {last}/{'NNPS' if subject == 'they' else 'NNP'}",
            )
        phrases.append(_phrase("name", value, 1 / len(names), text, subject))
    return phrases


def read_phrases(size: str, subject: str) -> dict[Slot, list[Phrase]]:
    """Return, for each slot, the phrases that may fill it; their probabilities sum to one."""
    lines: dict[str, list[re.Match]] = {}
    for attribute, line in _sections(lexicon.VALUES):
        match = _VALUE_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"not a value: {line!r}")
        if size == "full" or not match["full"]:
            lines.setdefault(attribute, []).append(match)
    phrases: dict[Slot, list[Phrase]] = {Slot("name", ""): read_names(size, subject)}
    for attribute, matches in lines.items():
        total = sum(int(match["weight"]) for match in matches)
        for match in matches:
            for entry in match["forms"].split("|"):
                form, _, texts = entry.partition(":")
                kept = [t.strip() for t in texts.split(";")]
                kept = [t.lstrip("*") for t in kept if size == "full" or not t.startswith("*")]
                probability = int(match["weight"]) / total / len(kept)
                phrases.setdefault(Slot(attribute, form.strip()), []).extend(
                    _phrase(attribute, match["value"].strip(), probability, text, subject)
                    for text in kept
                )
    return phrases
