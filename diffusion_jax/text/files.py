"""Reading text files safely: every complaint names the file and the line."""

import difflib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from diffusion_jax.errors import UserError

_BOM = b"\xef\xbb\xbf"


def check_file(path: str | Path, *, pipe: bool = False) -> Path:
    """Return the path of a file that exists and is not empty.

    Args:
        path: of the file.
        pipe: whether a pipe will do, because it is read once and in order; whether it is empty
            shows when it is read.

    Raises:
        UserError: There is no such file, it is a directory, a pipe or a device, or it is empty.
    """
    check_local(path)
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a directory; give the path of a file")
    if not path.exists():
        raise UserError(f"{path}: no such file{_nearest_file(path)}")
    if not path.is_file():
        if not pipe:
            raise UserError(
                f"{path}: is a pipe or a device, which cannot be read twice; write it to a file "
                "first (generate --input takes - for standard input)"
            )
    elif path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; it must hold at least one example")
    return path


def read_lines(path: str | Path, *, pipe: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of a UTF-8 file, one line in memory.

    Args:
        path: of the file.
        pipe: whether it may be a pipe, see ``check_file``.

    Raises:
        UserError: The file is missing or empty, or a line is not UTF-8.
    """
    path, number = check_file(path, pipe=pipe), 0
    with path.open("rb") as file:
        for number, line in _decoded(file, str(path)):
            yield number, line
    if number == 0:
        raise UserError(f"{path}: the file is empty; it must hold at least one example")


def json_value(line: str, place: str) -> Any:
    """Return what a line of JSON holds.

    Args:
        line: one line.
        place: file and line, for messages.

    Raises:
        UserError: it is not JSON, holds what is no Unicode text, or is nested past reading.
    """
    try:
        value = json.loads(line)
        # Half of a surrogate pair can be escaped (and only escaped), but no text holds it.
        if "\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise UserError(
            f"{place}: invalid JSON ({error.msg} at column {error.colno}); every line must be JSON "
            "of its own"
        ) from None
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: a character that is not Unicode text ({error.reason}); take it out"
        ) from None
    except RecursionError:
        raise UserError(f"{place}: the JSON is nested too deeply; flatten it") from None
    return value


def json_object(line: str, place: str) -> dict[str, Any]:
    """Return ``json_value`` of a line that must hold an object; raises UserError."""
    value = json_value(line, place)
    if not isinstance(value, dict):
        raise UserError(f"{place}: a JSON {type(value).__name__}, but must be an object")
    return value


def check_local(path: str | Path) -> None:
    """Raise UserError for the address of a bucket or a server; files and directories are local."""
    if "://" in str(path):
        raise UserError(
            f"{path} is an address, and files are read and written where they can be seen as files "
            "only; mount it (a bucket with gcsfuse, for example) and give the path"
        )


def read_input(path: str) -> Iterator[tuple[int, str]]:
    """Yield ``read_lines`` of a file or a pipe, or ``read_standard_input`` for "-"."""
    return read_standard_input() if path == "-" else read_lines(path, pipe=True)


def read_standard_input() -> Iterator[tuple[int, str]]:
    """Yield what ``read_lines`` does, from standard input, as its lines come.

    Raises:
        UserError: there is no line, or one is not UTF-8.
    """
    number = 0
    for number, line in _decoded(sys.stdin.buffer, "standard input"):
        yield number, line
    if number == 0:
        raise UserError("standard input is empty; give one text a line")


def _decoded(lines: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(lines, start=1):
        if number == 1:
            raw = raw.removeprefix(_BOM)
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}, line {number}: not UTF-8 text (byte {error.object[error.start]:#04x} "
                f"at position {error.start}); convert it to UTF-8"
            ) from None
        yield number, line.removesuffix("\n").removesuffix("\r")


def listing(wanted: str, present: Iterable[str]) -> str:
    """Return the nearest name and all names, for a message about a name that is not there."""
    names = sorted(present)
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}there is: {', '.join(names) or 'nothing'}"


def _nearest_file(path: Path) -> str:
    """Return a hint about a file with a similar name in the same directory."""
    if not path.parent.is_dir():
        return f" (the directory {path.parent} does not exist)"
    names = [p.name for p in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
