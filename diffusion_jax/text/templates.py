"""Templates with holes: ``The Vaults ___ family ___ .`` and the rows that can fill them.

A hole is the mask, wherever it stands: also touching words (``___.``). Holes that touch each other
are one. How many tokens a hole takes is not known, so a template stands for all *layouts*: one
number of tokens for each hole, within bounds.
"""

import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.text.control_targets import MASK
from diffusion_jax.text.packing import Row
from diffusion_jax.text.tokenizers.base import SpecialIds, Tokenizer

Layout = tuple[int, ...]
# Beyond this many ways to fill the holes nobody waits for all of them.
_MAX_ENUMERATED = 2_000_000


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
        known = tokenizer.tokens(range(tokenizer.vocab_size))
        for word in text.split():
            if tokenizer.unk_id in tokenizer.encode(word):
                near = difflib.get_close_matches(word, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise UserError(f"the word {word!r} is not in this model's vocabulary{hint}")
    return ids


def layouts(
    template: Template,
    max_tokens: int,
    *,
    min_hole: int = 1,
    max_hole: int = 8,
    num_tokens: int | None = None,
    limit: int | None = None,
) -> list[Layout]:
    """Return the ways to give each hole a number of tokens, shortest text first.

    Args:
        template: words and holes.
        max_tokens: the most tokens that the model writes.
        min_hole: fewest tokens of a hole, for each of its masks.
        max_hole: most tokens of a hole, for each of its masks.
        num_tokens: tokens of the whole text; None leaves it open.
        limit: no more than this many, spread evenly over all; None gives all.

    Raises:
        UserError: bounds that are not allowed, or that no layout satisfies.
    """
    if not 0 <= min_hole <= max_hole:
        raise UserError(f"holes of {min_hole} to {max_hole} tokens are not allowed; use 0 or more")
    room = max_tokens - template.num_words
    choices = [range(min_hole * n, min(max_hole * n, max(room, 0)) + 1) for n in template.holes]
    if np.prod([len(choice) for choice in choices], dtype=float) > _MAX_ENUMERATED:
        raise UserError(
            f"{len(choices)} holes of {min_hole} to {max_hole} tokens can be filled in too many "
            "ways; lower the bound"
        )
    fits = [
        layout
        for layout in itertools.product(*choices)
        if sum(layout) <= room
        and (num_tokens is None or template.num_words + sum(layout) == num_tokens)
    ]
    if not fits:
        wanted = (
            f"{num_tokens} tokens" if num_tokens is not None else f"at most {max_tokens} tokens"
        )
        raise UserError(
            f"no text of {wanted} has the {template.num_words} given words and "
            f"{len(template.holes)} holes of {min_hole} to {max_hole} tokens; change the bounds"
        )
    fits.sort(key=lambda layout: (sum(layout), layout))
    if limit is None or len(fits) <= limit:
        return fits
    return [fits[i] for i in np.linspace(0, len(fits) - 1, limit).round().astype(int)]


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
