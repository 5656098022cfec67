"""Gather the results of a sweep into one list, and read such a list again."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffusion_jax.errors import UserError

RESULT_FILE = "result.json"

Record = dict[str, Any]


def collect(roots: Iterable[str | Path]) -> list[Record]:
    """Return the results that lie under the directories, sorted by name.

    Raises:
        UserError: a directory is missing or has no result.
    """
    records: dict[str, Record] = {}
    for root in roots:
        files = sorted(Path(root).glob(f"*/{RESULT_FILE}"))
        if not files:
            raise UserError(f"{root} holds no results ({RESULT_FILE} in a directory per job)")
        for file in files:
            record = _record(_text(file), str(file))
            records[str(record.get("job", file.parent.name))] = record
    return [records[name] for name in sorted(records)]


def read_records(path: str | Path) -> list[Record]:
    """Read results, one JSON object a line.

    Raises:
        UserError: the file is missing, or a line is no JSON object.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"results file {path} does not exist; make one with sweep collect")
    lines = _text(file).splitlines()
    return [_record(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]


def column(records: Iterable[Record], expression: str) -> list[float]:
    """Return a quantity of every record: a field, or the difference of two ("bound - entropy").

    Raises:
        UserError: a record has no such field, or it is not a number.
    """
    names = [part.strip() for part in expression.split(" - ")]
    values = []
    for record in records:
        parts = [record.get(name) for name in names]
        if not all(isinstance(part, int | float) for part in parts):
            numbers = sorted(k for k, v in record.items() if isinstance(v, int | float))
            raise UserError(
                f"job {record.get('job')} has no number {expression!r}; it has {', '.join(numbers)}"
            )
        values.append(float(parts[0]) - sum(map(float, parts[1:])))  # type: ignore[arg-type]
    return values


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}") from error


def _record(text: str, where: str) -> Record:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{where} is a JSON {type(record).__name__}, not an object")
    return record
