"""One streaming reader per file format; each yields examples and complains with file and line."""

import csv
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.errors import UserError
from diffusion_jax.text.example import Example, linearise
from diffusion_jax.text.files import json_object, listing, read_lines

# The columns looked for when the user names none, in this order.
_KNOWN_COLUMNS = (
    {"src": "src", "trg": "trg"},
    {"src": "mr", "trg": "ref"},
    {"src": "meaning_representation", "trg": "target"},
    {"text": "text"},
)
# Columns of the E2E challenge in which attributes are written name[The Vaults], food[English].
_MEANING_COLUMNS = ("mr", "meaning_representation")
_STARS = re.compile(r"\*{3,}")
_MEANING_SLOT = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*")


def read_plain(path: Path) -> Iterator[Example]:
    """Yield one text a line; blank lines are skipped."""
    for number, line in read_lines(path):
        if line.strip():
            yield Example(text=line.strip(), id=str(number))


def read_e2e(path: Path) -> Iterator[Example]:
    """Yield pairs of ``key : value | key : value||text`` lines (Diffusion-LM's E2E files)."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        source, bars, text = line.partition("||")
        if not bars:
            raise UserError(f'{path}, line {number}: no "||" between attributes and text')
        attributes = {}
        for slot in source.split("|"):
            name, _, value = slot.partition(" : ")
            attributes[name.strip()] = value.strip()
        yield Example(
            src=source.strip(),
            trg=text.strip(),
            fields={"attributes": attributes},
            id=str(number),
        )


def read_starred(path: Path) -> Iterator[Example]:
    """Yield pairs of OneStopEnglish: a harder line, a simpler line, a line of stars."""
    lines = read_lines(path)
    while group := list(itertools.islice(lines, 3)):
        number = group[0][0]
        if len(group) < 3 or not _STARS.fullmatch(group[2][1].strip()):
            raise UserError(
                f"{path}, line {number}: two lines of text and a line of stars must follow; "
                "if this is one text a line, set format to lines"
            )
        yield Example(src=group[0][1].strip(), trg=group[1][1].strip(), id=str(number))


def read_parallel(src_path: Path, trg_path: Path) -> Iterator[Example]:
    """Yield pairs of equally numbered lines of two files."""
    both = itertools.zip_longest(read_lines(src_path), read_lines(trg_path))
    for source, target in both:
        if source is None or target is None:
            longer = trg_path if source is None else src_path
            number = next(line[0] for line in (source, target) if line)
            raise UserError(
                f"{longer}, line {number}: the other file has ended; parallel files must have "
                "the same number of lines"
            )
        (number, src), (_, trg) = source, target
        if src.strip() or trg.strip():
            yield Example(src=src.strip(), trg=trg.strip(), id=str(number))


def read_csv(
    path: Path, columns: Mapping[str, str] | None, where: Mapping[str, str]
) -> Iterator[Example]:
    """Yield texts or pairs of a comma-separated file with a header."""
    rows = csv.DictReader((line + "\n" for _, line in read_lines(path)), strict=True)
    try:
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            if None in row or None in row.values():
                raise UserError(
                    f"{place}: the row has not the {len(rows.fieldnames or ())} columns of the "
                    "header; quote values that contain commas"
                )
            if example := example_of_row(row, columns, where, place, str(rows.line_num)):
                yield example
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: not valid csv: {error}") from None


def read_jsonl(
    path: Path, columns: Mapping[str, str] | None, where: Mapping[str, str]
) -> Iterator[Example]:
    """Yield texts or pairs of a file with one JSON object a line; blank lines are skipped."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        row = json_object(line, place)
        if example := example_of_row(row, columns, where, place, str(number)):
            yield example


def example_of_row(
    row: Mapping[str, Any],
    columns: Mapping[str, str] | None,
    where: Mapping[str, str],
    place: str,
    example_id: str,
) -> Example | None:
    """Return the example in one row of a table, or None when ``where`` leaves it out.

    Args:
        row: Column name to value.
        columns: ``{"text": column}`` or ``{"src": column, "trg": column}``; without it, the
            usual names are looked for.
        where: Columns and the values that they must have.
        place: Where the row stands, for messages.
        example_id: The example's id.

    Raises:
        UserError: A column is not there or holds no text.
    """
    for name, wanted in where.items():
        if str(_column(row, name, place)) != str(wanted):
            return None
    columns = columns or _usual_columns(row, place)
    taken = {}
    fields = {name: value for name, value in row.items() if name not in columns.values()}
    for role, name in columns.items():
        value = _column(row, name, place)
        if not isinstance(value, str):
            raise UserError(
                f"{place}: column {name!r} holds {type(value).__name__}, but must hold text"
            )
        if name in _MEANING_COLUMNS and (attributes := meaning_attributes(value)):
            fields["attributes"] = attributes
            value = linearise(attributes)
        taken[role] = value.strip()
    return Example(**taken, fields=fields, id=example_id)


def meaning_attributes(text: str) -> dict[str, str]:
    """Read ``name[The Vaults], food[English]``; anything else gives no attributes."""
    slots = _MEANING_SLOT.findall(text)
    if ", ".join(f"{name}[{value}]" for name, value in slots) != text.strip():
        return {}
    return dict(slots)


def _usual_columns(row: Mapping[str, Any], place: str) -> Mapping[str, str]:
    for columns in _KNOWN_COLUMNS:
        if all(name in row for name in columns.values()):
            return columns
    raise UserError(
        f"{place}: neither text, nor src and trg, nor mr and ref is a column; there is: "
        f"{', '.join(sorted(row))}; say which columns to use"
    )


def _column(row: Mapping[str, Any], name: str, place: str) -> Any:
    if name not in row:
        raise UserError(f"{place}: no column {name!r}; {listing(name, row)}")
    return row[name]
