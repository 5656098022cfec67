"""Going on with an output file of JSON lines that an interrupted run began."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.config_io import differences
from diffusion_jax.errors import UserError


def count_done(
    output: str, expected: Iterable[Any], describe: Callable[[dict], Any], names: str
) -> int:
    """Return how many complete lines the output already has.

    Args:
        output: the file; "-" cannot be resumed.
        expected: what ``describe`` must return for each line, in order, its id first; no more than
            one further is taken than there are lines.
        describe: (record of a line) -> what tells it from the output of another command.
        names: what ``describe`` returns, in words.

    Raises:
        UserError: standard output, or a line that another command, or other input, has written.
    """
    if output == "-":
        raise UserError("--resume continues a file; give --output")
    path = Path(output)
    if not path.exists():
        return 0
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    lines, unfinished = content[:whole].splitlines(), content[whole:]
    remaining = iter(expected)
    for index, line in enumerate(lines):
        try:
            found = describe(json.loads(line))
        except (ValueError, KeyError, TypeError):
            found = None
        wanted = next(remaining, None)
        if found is None or found != wanted:
            raise UserError(
                f"{path} line {index + 1} is not output of this command (expected {names} "
                f"{wanted}, found {found}); choose another --output"
            )
    # What is about to be cut off must be ours too: every record begins with its id.
    following = next(remaining, None) if unfinished else None
    begins = f'{{"id": {json.dumps(following[0], ensure_ascii=False)}, ' if following else ""
    if unfinished and not _agree(begins.encode(), unfinished):
        raise UserError(
            f"{path} ends with an unfinished line that is not output of this command; choose "
            "another --output"
        )
    return len(lines)


def _agree(begins: bytes, unfinished: bytes) -> bool:
    """Return whether what is there of a line can be that of a record which begins so."""
    return bool(begins) and unfinished[: len(begins)] == begins[: len(unfinished)]


def options_file(output: str) -> Path:
    """Return where ``begin`` keeps what the lines of an output file depend on."""
    return Path(output + ".options.json")


def begin(output: str, describe: Callable[[], Mapping[str, Any]], *, resume: bool) -> None:
    """Keep beside an output file what its lines depend on; compare with it when it is resumed.

    Removes what an interrupted run wrote after the last complete line. Nothing is done for "-".

    Args:
        output: the file, looked at by ``count_done`` where it is resumed.
        describe: returns what else than their index the lines depend on, as JSON values; not
            called for "-", as it reads all weights.
        resume: go on with a file that may be there.

    Raises:
        UserError: the file was begun with other options.
    """
    if output == "-":
        return
    path, beside = Path(output), options_file(output)
    options = json.loads(json.dumps(describe()))
    if resume and path.exists() and beside.exists():
        changed = differences(_read_options(beside), options)
        if changed:
            listing = "; ".join(f"{n}: {old!r} -> {new!r}" for n, (old, new) in changed.items())
            raise UserError(
                f"{path} was begun otherwise ({listing}); leave these as they were, or choose "
                "another --output"
            )
    if resume and path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    beside.write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")


def _read_options(path: Path) -> dict[str, Any]:
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise UserError(f"{path} is damaged; remove it to go on without comparing options")
    return options
