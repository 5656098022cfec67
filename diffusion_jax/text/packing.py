"""From token ids to rows of a fixed length: single texts, blocks, and source-target pairs.

A row is ``input_ids`` [L] int32 and ``noise_mask`` [L] bool, true where the diffusion model adds
noise and generates. Padding counts as generated text: the models learn lengths by writing PAD
(Li et al. 2022; Gong et al. 2022).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.text.tokenizers.base import SpecialIds, content_ids

OnLong = Literal["error", "truncate", "drop"]

# START END around a text; START END SEP around a source and START END around its target.
TEXT_SPECIALS = 2
PAIR_SPECIALS = 5


class Row(NamedTuple):
    """One packed example.

    Attributes:
        input_ids: [L] int32.
        noise_mask: [L] bool, true at positions that are noised and generated.
    """

    input_ids: np.ndarray
    noise_mask: np.ndarray


def text_overflow(ids: Sequence[int], length: int) -> int:
    """Return by how many tokens START, ``ids`` and END exceed ``length`` (0 if they fit)."""
    return max(0, len(ids) + TEXT_SPECIALS - length)


def pair_overflow(src_ids: Sequence[int], trg_ids: Sequence[int], length: int) -> int:
    """Return by how many tokens a packed pair exceeds ``length`` (0 if it fits)."""
    return max(0, len(src_ids) + len(trg_ids) + PAIR_SPECIALS - length)


def pack_text(
    ids: Sequence[int],
    length: int,
    special: SpecialIds,
    *,
    on_long: Literal["error", "truncate"] = "error",
) -> Row:
    """Pack one text as START, ids, END, padding; every position is generated.

    Args:
        ids: Token ids without special tokens.
        length: Row length L.
        special: The ids of START, END and PAD; any tokenizer.
        on_long: What to do when the text does not fit. ``"truncate"`` cuts the end off, END
            included, as Diffusion-LM does: a cut sentence does not end.

    Raises:
        UserError: The text does not fit and ``on_long`` is ``"error"``.
    """
    if on_long == "error" and text_overflow(ids, length):
        raise UserError(
            f"a text of {len(ids)} tokens (plus START and END) does not fit length {length}; "
            'raise the length, or set on_long to "truncate" or "drop"'
        )
    row = [special.start_id, *ids, special.end_id][:length]
    return Row(_pad(row, length, special.pad_id), np.ones(length, np.bool_))


def pack_blocks(
    id_lists: Iterable[Sequence[int]], length: int, special: SpecialIds
) -> Iterator[Row]:
    """Concatenate START, ids, END of all texts and cut into rows; the remainder is dropped.

    Holds no more than one row and one text at a time.
    """
    pending: list[int] = []
    for ids in id_lists:
        pending += [special.start_id, *ids, special.end_id]
        full = len(pending) - len(pending) % length
        for start in range(0, full, length):
            block = pending[start : start + length]
            yield Row(np.asarray(block, np.int32), np.ones(length, np.bool_))
        del pending[:full]


def pack_pair(
    src_ids: Sequence[int],
    trg_ids: Sequence[int],
    length: int,
    special: SpecialIds,
    *,
    on_long: Literal["error", "truncate"] = "error",
) -> Row:
    """Pack a pair as START src END SEP START trg END, padding (DiffuSeq, Gong et al. 2022).

    The noise mask is false up to and including SEP and true from the target's START on, padding
    included. A pair that is too long loses tokens from the end of its longer side (of both when
    they are equally long) until it fits.

    Args:
        src_ids: Source ids without special tokens.
        trg_ids: Target ids without special tokens.
        length: Row length L.
        special: The ids of the special tokens; any tokenizer.
        on_long: What to do when the pair does not fit.

    Raises:
        UserError: The pair does not fit and ``on_long`` is ``"error"``, or ``length`` leaves no
            room for any token.
    """
    if length < PAIR_SPECIALS:
        raise UserError(f"length {length} is too short for a pair: at least {PAIR_SPECIALS}")
    if on_long == "error" and pair_overflow(src_ids, trg_ids, length):
        raise UserError(
            f"a pair of {len(src_ids)} source and {len(trg_ids)} target tokens (plus "
            f"{PAIR_SPECIALS} special tokens) does not fit length {length}; raise the length, or "
            'set on_long to "truncate" or "drop"'
        )
    src_kept, trg_kept = _fit_pair(len(src_ids), len(trg_ids), length - PAIR_SPECIALS)
    source = _source_prefix(src_ids[:src_kept], special)
    target = [special.start_id, *trg_ids[:trg_kept], special.end_id]
    row = _pad(source + target, length, special.pad_id)
    return Row(row, np.arange(length) >= len(source))


def pack_source(
    src_ids: Sequence[int],
    length: int,
    special: SpecialIds,
    *,
    target_room: int = 3,
    on_long: Literal["error", "truncate"] = "error",
) -> Row:
    """Pack a source alone, for inference: the rest of the row is there to be generated.

    Args:
        src_ids: Source ids without special tokens.
        length: Row length L.
        special: The ids of the special tokens; any tokenizer.
        target_room: Positions that the source must leave free; 3 are START, one token and END.
        on_long: What to do when the source leaves less room than that.

    Raises:
        UserError: The source is too long and ``on_long`` is ``"error"``, or ``target_room``
            leaves no room for a source.
    """
    src_room = length - 3 - target_room
    if src_room < 0:
        raise UserError(
            f"length {length} is too short for a source and {target_room} positions of target"
        )
    if on_long == "error" and len(src_ids) > src_room:
        raise UserError(
            f"a source of {len(src_ids)} tokens does not fit: length {length} less 3 special "
            f"tokens and {target_room} target positions leaves {src_room}; shorten it, or "
            'have it cut (generate --truncate; on_long="truncate")'
        )
    source = _source_prefix(src_ids[:src_room], special)
    return Row(_pad(source, length, special.pad_id), np.arange(length) >= len(source))


def unpack_target(input_ids: np.ndarray, noise_mask: np.ndarray, special: SpecialIds) -> list[int]:
    """Return the generated ids of one row: up to the first END, without special tokens.

    Args:
        input_ids: [L] ids.
        noise_mask: [L] bool, true at generated positions.
        special: The ids of the special tokens; any tokenizer.
    """
    return content_ids(np.asarray(input_ids)[np.asarray(noise_mask, np.bool_)], special)


def pad_mask(input_ids: np.ndarray, pad_id: int) -> np.ndarray:
    """Return true at real tokens, false at padding; the shape of ``input_ids``."""
    return np.asarray(input_ids) != pad_id


def _source_prefix(src_ids: Sequence[int], special: SpecialIds) -> list[int]:
    return [special.start_id, *src_ids, special.end_id, special.sep_id]


def _fit_pair(src_count: int, trg_count: int, room: int) -> tuple[int, int]:
    """Return how many source and target tokens remain when the longer side gives way."""
    while src_count + trg_count > room:
        src_longer, trg_longer = src_count >= trg_count, trg_count >= src_count
        src_count, trg_count = src_count - src_longer, trg_count - trg_longer
    return src_count, trg_count


def _pad(ids: Sequence[int], length: int, pad_id: int) -> np.ndarray:
    row = np.full(length, pad_id, np.int32)
    row[: len(ids)] = ids
    return row
