"""Templates with holes: ``The Vaults ___ family ___ .`` and the rows that can fill them.

A hole is the mask, wherever it stands: also touching words (``___.``). Holes that touch each other
are one. How many tokens a hole takes is not known, so a template stands for all *layouts*: one
number of tokens for each hole, within bounds.
"""

import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.text.control_targets import MASK
from diffusion_jax.text.packing import Row
from diffusion_jax.text.tokenizers.base import SpecialIds, Tokenizer, special_ids

Layout = tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """Words to keep, and holes between them.

    Attributes:
        segments: ids of the words before, between and after the holes; one more than holes. The
            first and the last may be empty.
        holes: masks that stand in each hole (more than one where masks touch).
    """

    segments: tuple[tuple[int, ...], ...]
    holes: tuple[int, ...]

    @property
    def num_words(self) -> int:
        """Tokens that are given."""
        return sum(map(len, self.segments))


def parse_template(text: str, tokenizer: Tokenizer, mask: str = MASK) -> Template:
    """Read a template.

    Raises:
        UserError: no mask, or no hole in the text; a word outside the vocabulary (the nearest is
            named).
    """
    if not mask or mask != mask.strip():
        raise UserError(f"mask is {mask!r}; give a visible character or word, such as {MASK!r}")
    parts = text.split(mask)
    if len(parts) == 1:
        raise UserError(f"there is no hole in {text!r}; mark holes with {mask}")
    segments, holes = [tuple(encode_known(parts[0], tokenizer))], []
    for part in parts[1:]:
        ids = tuple(encode_known(part, tokenizer))
        if holes and not segments[-1]:
            holes[-1] += 1
            segments[-1] = ids
            continue
        holes.append(1)
        segments.append(ids)
    return Template(tuple(segments), tuple(holes))


def encode_known(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a text; raises UserError for a word outside the vocabulary."""
    ids = tokenizer.encode(text)
    if tokenizer.unk_id in ids:
        # A special token is no word that could be written instead.
        special = {*special_ids(tokenizer), tokenizer.unk_id}
        known = tokenizer.tokens(i for i in range(tokenizer.vocab_size) if i not in special)
        for word in text.split():
            if tokenizer.unk_id in tokenizer.encode(word):
                near = difflib.get_close_matches(word, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise UserError(f"the word {word!r} is not in this model's vocabulary{hint}")
    return ids


def text_lengths(
    template: Template,
    max_tokens: int,
    *,
    min_hole: int,
    max_hole: int,
    num_tokens: int | None = None,
) -> range:
    """Return how many tokens a text of a template can have; never empty.

    Args:
        template: words and holes.
        max_tokens: the most tokens that the model writes.
        min_hole: fewest tokens of a hole, for each of its masks.
        max_hole: most tokens of a hole, for each of its masks.
        num_tokens: tokens of the whole text; None leaves it open.

    Raises:
        UserError: bounds that are not allowed, words and holes that the model has no room for, or
            a number of tokens that the bounds rule out.
    """
    if not 0 <= min_hole <= max_hole:
        raise UserError(f"holes of {min_hole} to {max_hole} tokens are not allowed; use 0 or more")
    masks, words = sum(template.holes), template.num_words
    shortest, longest = words + min_hole * masks, words + max_hole * masks
    if shortest > max_tokens:
        raise UserError(
            f"the {words} given words and {masks} holes of at least {min_hole} tokens take "
            f"{shortest}, and this model writes at most {max_tokens}; give fewer"
        )
    longest = min(longest, max_tokens)
    if num_tokens is None:
        return range(shortest, longest + 1)
    if not shortest <= num_tokens <= longest:
        raise UserError(
            f"no text of {num_tokens} tokens has the {words} given words and {masks} holes of "
            f"{min_hole} to {max_hole} tokens: it has {shortest} to {longest}; change the bounds"
        )
    return range(num_tokens, num_tokens + 1)


def layouts(
    template: Template,
    max_tokens: int,
    *,
    min_hole: int = 1,
    max_hole: int = 8,
    num_tokens: int | None = None,
    min_tokens: int = 0,
    limit: int | None = None,
) -> list[Layout]:
    """Return the ways to give each hole a number of tokens, shortest text first.

    They are counted, and only those that are returned are made: any number of holes will do.

    Args:
        template: words and holes.
        max_tokens: the most tokens that the model writes.
        min_hole: fewest tokens of a hole, for each of its masks.
        max_hole: most tokens of a hole, for each of its masks.
        num_tokens: tokens of the whole text; None leaves it open.
        min_tokens: fewest tokens of the whole text.
        limit: no more than this many, spread evenly over all; None gives all, however many.

    Raises:
        UserError: as ``text_lengths``, or all these texts are shorter than ``min_tokens``.
    """
    lengths = text_lengths(
        template, max_tokens, min_hole=min_hole, max_hole=max_hole, num_tokens=num_tokens
    )
    if lengths[-1] < min_tokens:
        raise UserError(
            f"a text of this template has at most {lengths[-1]} tokens, not {min_tokens}"
        )
    # What is shared out is what a text has beyond its fewest tokens.
    fewest = [min_hole * masks for masks in template.holes]
    spare = [(max_hole - min_hole) * masks for masks in template.holes]
    shortest = template.num_words + sum(fewest)
    totals = [length - shortest for length in lengths if length >= min_tokens]
    ways = _count_ways(spare, totals[-1])
    count = sum(ways[0][total] for total in totals)
    chosen = range(count)
    if limit is not None and limit < count:
        # Exact, where floats could not tell the layouts apart.
        gap = Fraction(count - 1, max(limit - 1, 1))
        chosen = [round(i * gap) for i in range(limit)]
    shares = (_nth_share(index, totals, ways) for index in chosen)
    return [tuple(map(sum, zip(fewest, share))) for share in shares]


def _count_ways(spare: Sequence[int], most: int) -> list[list[int]]:
    """Return [j][t]: the ways to share t tokens among holes j, j + 1, ..., each up to its spare.

    Args:
        spare: most tokens of each hole.
        most: the largest t.
    """
    ways = [[1] + [0] * most]
    for size in reversed(spare):
        sums = [0, *itertools.accumulate(ways[-1])]
        ways.append([sums[t + 1] - sums[max(t - size, 0)] for t in range(most + 1)])
    return ways[::-1]


def _nth_share(index: int, totals: Sequence[int], ways: list[list[int]]) -> Layout:
    """Return one way to share tokens among holes: ordered by total, then as tuples are."""
    rising = iter(totals)
    total = next(rising)
    while index >= ways[0][total]:
        index -= ways[0][total]
        total = next(rising)
    share = []
    for rest in ways[1:]:
        size = 0
        while index >= rest[total - size]:
            index -= rest[total - size]
            size += 1
        share.append(size)
        total -= size
    return tuple(share)


def fill_row(template: Template, layout: Layout, length: int, special: SpecialIds) -> Row:
    """Return START, the words with room for the holes, END, padding; holes are generated.

    Args:
        template: words and holes.
        layout: tokens of each hole.
        length: L.
        special: the ids of START, END and PAD.
    """
    ids = [special.start_id, *template.segments[0]]
    noise = [False] * len(ids)
    for size, segment in zip(layout, template.segments[1:]):
        ids += [special.pad_id] * size + list(segment)
        noise += [True] * size + [False] * len(segment)
    ids.append(special.end_id)
    row = np.full(length, special.pad_id, np.int32)
    row[: len(ids)] = ids
    mask = np.zeros(length, np.bool_)
    mask[: len(noise)] = noise
    return Row(row, mask)


def keeps(template: Template, ids: Sequence[int]) -> bool:
    """Return whether a text's ids hold the given words, in order, with something at each hole.

    Args:
        template: words and holes; a hole may have any number of tokens, also none.
        ids: without special tokens.
    """
    ids = list(map(int, ids))
    first, *middle, last = template.segments
    if len(ids) < template.num_words or ids[: len(first)] != list(first):
        return False
    if last and ids[len(ids) - len(last) :] != list(last):
        return False
    start, stop = len(first), len(ids) - len(last)
    for segment in middle:
        found = next(
            (
                i
                for i in range(start, stop - len(segment) + 1)
                if ids[i : i + len(segment)] == list(segment)
            ),
            None,
        )
        if found is None:
            return False
        start = found + len(segment)
    return True
