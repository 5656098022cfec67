"""Going on with an output file of JSON lines that an interrupted run began."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from diffusion_jax.errors import UserError


def count_done(
    output: str, expected: Iterable[Any], describe: Callable[[dict], Any], names: str
) -> int:
    """Return how many complete lines the output already has.

    Args:
        output: the file; "-" cannot be resumed.
        expected: what ``describe`` must return for each line, in order; no more of it is taken than
            there are lines.
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
    # What is about to be cut off must be ours too: every record begins with its number.
    begins = f'{{"id": {len(lines)}, '.encode()
    if unfinished[: len(begins)] != begins[: len(unfinished)]:
        raise UserError(
            f"{path} ends with an unfinished line that is not output of this command; choose "
            "another --output"
        )
    return len(lines)


def cut_unfinished_line(output: str) -> None:
    """Remove what an interrupted run wrote after the last complete line."""
    path = Path(output)
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
