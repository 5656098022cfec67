"""Constituency trees in bracket notation, and the labelled spans of tokens that they stand for.

A span is ``(start, end, label)`` in tokens, ``end`` inclusive. Unary chains are one span whose
label joins theirs from the top down with ``::`` (as benepar and Diffusion-LM have it);
part-of-speech brackets and the root ``TOP`` (or an unnamed one) are no spans. A bracket around one
word is a part of speech, ``(NN dog)``, unless its label is one of ``CONSTITUENTS``: ``(VP runs)``
is what ``(VP (X runs))`` is, which also serves where a treebank has labels of its own.

A line end that is kept as a word (benepar writes it as the newline itself, in a bracket of its
own) is a leaf of no constituent: what ends with it ends before it.
"""

import re
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

from diffusion_jax.errors import UserError
from diffusion_jax.text.example import NEWLINE

Span = tuple[int, int, str]
UNARY = "::"
ROOTS = ("TOP", "ROOT", "")
CONSTITUENTS = (
    *("S", "SBAR", "SBARQ", "SINV", "SQ", "ADJP", "ADVP", "CONJP", "FRAG", "LST", "NAC", "NML"),
    *("NP", "NX", "PP", "PRN", "PRT", "QP", "RRC", "UCP", "VP", "WHADJP", "WHADVP", "WHNP", "WHPP"),
)
"""Penn's constituents, without INTJ and X: those are also Universal parts of speech."""
NO_TAG = "X"
"""The tag of a word that stands in no bracket of its own."""
MAX_DEPTH = 200
"""Brackets within brackets; no sentence comes near, and Python's own limit is not far above."""
# Penn writes functions behind the label: NP-SBJ, NP=2.
_FUNCTION = re.compile(r"[-=].*")
_TOKEN = re.compile(r"\(|\)|[^\s()]+")
# Penn's names of what would be taken for a bracket.
_LEAVES = {"(": "-LRB-", ")": "-RRB-"}


class Tree(NamedTuple):
    """What a bracketed tree says.

    Attributes:
        tokens: the leaves.
        tags: the label of each leaf's own bracket.
        spans: the constituents in preorder, unary chains joined.
    """

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    spans: tuple[Span, ...]


class _Node(NamedTuple):
    label: str
    children: list["_Node | str"]


def parse_tree(text: str) -> Tree:
    """Read ``(S (NP (DT the) (NN pub)) ...)``.

    A constituent may also hold words directly: ``(NP the pub)``; their tags are then ``"X"``.

    Raises:
        UserError: brackets do not match or are more than ``MAX_DEPTH`` deep, or there is no word.
    """
    root = _read(text)
    tokens: list[str] = []
    tags: list[str] = []
    found: list[Span] = []

    def visit(node: _Node, above: list[str]) -> None:
        labels = above if node.label in ROOTS else [*above, node.label]
        only = node.children[0] if len(node.children) == 1 else None
        if isinstance(only, _Node) and not _is_tag(only):
            visit(only, labels)
            return
        place, start = len(found), len(tokens)
        for child in node.children:
            if isinstance(child, str):
                tokens.append(child)
                tags.append(NO_TAG)
            elif _is_tag(child):
                tokens.append(str(child.children[0]))
                tags.append(child.label)
            else:
                visit(child, [])
        if labels:
            found.insert(place, (start, len(tokens) - 1, UNARY.join(labels)))

    visit(_Node("", [root]) if _is_tag(root) else root, [])
    if not tokens:
        raise UserError(f"the tree {text!r} holds no word")
    return Tree(tuple(tokens), tuple(tags), without_line_ends(found, tokens))


def without_line_ends(spans: Sequence[Span], tokens: Sequence[str]) -> tuple[Span, ...]:
    """Return spans cut to the words between the line ends at their ends.

    Args:
        spans: (start, end, label). Those that the cut makes equal are joined, the longer above
            (see ``join_spans``), and one of nothing but line ends is left out.
        tokens: of the text; a span that is not inside them stays as it is.
    """
    if NEWLINE not in tokens:
        return tuple(spans)
    kept = []
    # Equal ones keep their order.
    for start, end, label in sorted(spans, key=lambda span: (span[0], -span[1])):
        if 0 <= start <= end < len(tokens):
            words = [i for i in range(start, end + 1) if tokens[i] != NEWLINE]
            if not words:
                continue
            start, end = words[0], words[-1]
        kept.append((start, end, label))
    return join_spans(kept)


def leaf_of(token: str) -> str:
    """Return a token as it can stand in brackets."""
    return "".join(_LEAVES.get(character, character) for character in token)


def _is_tag(node: _Node) -> bool:
    """Return whether a bracket is a part of speech: one word, under no constituent's label."""
    holds_a_word = len(node.children) == 1 and isinstance(node.children[0], str)
    return holds_a_word and _FUNCTION.sub("", node.label) not in CONSTITUENTS


def _read(text: str) -> _Node:
    """Return the outermost bracket; raises UserError unless brackets match."""
    outside = _Node("", [])
    stack = [outside]
    expects_label = False
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == "(":
            if len(stack) > MAX_DEPTH:
                raise UserError(
                    f"the tree has more than {MAX_DEPTH} brackets within one another (at "
                    f"character {match.start() + 1}); write a flatter one"
                )
            stack[-1].children.append(node := _Node("", []))
            stack.append(node)
            expects_label = True
            continue
        if token == ")":
            closed = stack.pop()
            if not stack:
                raise UserError(
                    f"unbalanced tree: a ) too many at character {match.start() + 1} of {text!r}"
                )
            if not closed.children and _holds_line_end(text[: match.start()], closed.label):
                closed.children.append(NEWLINE)
            if not closed.children:
                raise UserError(
                    f"an empty bracket ends at character {match.start() + 1} of {text!r}; "
                    "every bracket is (LABEL child ...)"
                )
        elif expects_label and not text[match.start() - 1].isspace():
            # The label touches its bracket: "(NP", as opposed to "( the".
            stack[-1] = _relabel(stack, token)
        elif len(stack) == 1:
            raise UserError(f"{token!r} stands outside all brackets in the tree {text!r}")
        else:
            stack[-1].children.append(token)
        expects_label = False
    if len(stack) > 1:
        raise UserError(f"unbalanced tree: {len(stack) - 1} missing ) at the end of {text!r}")
    if len(outside.children) != 1:
        raise UserError(f"{text!r} holds {len(outside.children)} trees; give one")
    root = outside.children[0]
    assert isinstance(root, _Node)
    return root


def _holds_line_end(text: str, label: str) -> bool:
    """Return whether a bracket without children, as far as its end, holds a newline as its word."""
    space = text[len(text.rstrip()) :]
    return bool(label) and _FUNCTION.sub("", label) not in CONSTITUENTS and NEWLINE in space[1:]


def _relabel(stack: list[_Node], label: str) -> _Node:
    """Give the innermost open bracket its label."""
    node = _Node(label, stack[-1].children)
    stack[-2].children[-1] = node
    return node


def span_of(value: Any) -> Span:
    """Return the span that a JSON value is; raises UserError unless [start, end, label]."""
    if not (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(at, Integral) and not isinstance(at, bool) for at in value[:2])
        and isinstance(value[2], str)
    ):
        raise UserError(f'span {value!r} is not [start, end, label], for example [3, 5, "PP"]')
    return int(value[0]), int(value[1]), value[2]


def join_spans(spans: Iterable[Sequence]) -> tuple[Span, ...]:
    """Return spans with those of equal extent joined, the first being the topmost.

    Args:
        spans: ``(start, end, label)`` in preorder, ``end`` inclusive, as ``Sentence.spans`` of the
            grammar; roots are left out.
    """
    labels: dict[tuple[int, int], list[str]] = {}
    for start, end, label in spans:
        here = labels.setdefault((int(start), int(end)), [])
        if label not in ROOTS:
            here.append(label)
    return tuple((*extent, UNARY.join(names)) for extent, names in labels.items() if names)


def format_tree(tokens: Sequence[str], spans: Iterable[Span], tags: Sequence[str] = ()) -> str:
    """Return the brackets of nested spans over tokens, rooted in ``TOP``.

    Args:
        tokens: the leaves.
        spans: as in ``Tree``, in any order; none may cross another.
        tags: the label of each leaf's bracket; without them leaves stand bare.

    Raises:
        UserError: two spans cross, or one reaches outside the tokens.
    """
    opens: dict[int, list[tuple[int, str]]] = {}
    ordered = sorted(spans, key=lambda span: (span[0], -span[1]))
    check_nested(ordered, len(tokens))
    for start, end, label in ordered:
        opens.setdefault(start, []).append((end, label))
    closes = [0] * len(tokens)
    words = []
    for i, token in enumerate(tokens):
        brackets = ""
        for end, label in opens.get(i, []):
            names = label.split(UNARY)
            brackets += "".join(f"({name} " for name in names)
            closes[end] += len(names)
        leaf = f"({tags[i]} {token})" if tags else token
        words.append(brackets + leaf + ")" * closes[i])
    return f"(TOP {' '.join(words)})"


def check_nested(spans: Iterable[Span], num_tokens: int | None = None) -> None:
    """Raise UserError where two spans cross, or one is outside the tokens."""
    open_spans: list[Span] = []
    for span in sorted(spans, key=lambda span: (span[0], -span[1])):
        start, end, _ = span
        if not 0 <= start <= end or (num_tokens is not None and end >= num_tokens):
            room = "" if num_tokens is None else f" of {num_tokens} tokens"
            raise UserError(f"span {start}:{end} is not inside the text{room}")
        while open_spans and open_spans[-1][1] < start:
            open_spans.pop()
        if open_spans and open_spans[-1][1] < end:
            other = open_spans[-1]
            raise UserError(
                f"spans {other[0]}:{other[1]}={other[2]} and {start}:{end}={span[2]} cross; "
                "constituents must be nested or apart"
            )
        open_spans.append(span)
