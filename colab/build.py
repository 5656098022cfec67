"""Write each notebook from its text twin: ``python colab/build.py``.

The twin ``NAME.py`` (percent format: ``# %%`` begins a cell) is what people edit and review; the
notebook ``NAME.ipynb`` is made from it, without outputs. A line ``# %pip ...`` in a code cell is a
magic of IPython.
"""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_HEADER = re.compile(r"^# %%( \[markdown\])?(?: tags=(\[.*\]))?$")


def cells_of(twin: str) -> list[dict[str, Any]]:
    """Return the notebook cells that a text twin describes.

    Args:
        twin: contents of the percent-format file.

    Raises:
        ValueError: there is text before the first cell.
    """
    cells: list[dict[str, Any]] = []
    for line in twin.splitlines():
        if header := _HEADER.match(line):
            markdown, tags = header.groups()
            cells.append(_new_cell(bool(markdown), json.loads(tags or "[]"), len(cells)))
        elif not cells:
            raise ValueError(f"text before the first '# %%': {line!r}")
        elif cells[-1]["cell_type"] == "markdown":
            cells[-1]["source"].append(line.removeprefix("#").removeprefix(" "))
        else:
            cells[-1]["source"].append(re.sub(r"^# (?=[%!])", "", line))
    for cell in cells:
        text = "\n".join(cell["source"]).strip("\n")
        cell["source"] = text.splitlines(keepends=True)
    return cells


def notebook_of(twin: str) -> dict[str, Any]:
    """Return the whole notebook of a text twin."""
    return {
        "cells": cells_of(twin),
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def write(notebook: dict[str, Any], path: Path) -> None:
    """Write a notebook so that equal notebooks are equal files."""
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _new_cell(markdown: bool, tags: list[str], index: int) -> dict[str, Any]:
    cell = {"id": f"cell-{index:02d}", "metadata": {"tags": tags} if tags else {}, "source": []}
    if markdown:
        return {"cell_type": "markdown", **cell}
    return {"cell_type": "code", **cell, "execution_count": None, "outputs": []}


if __name__ == "__main__":
    for twin_path in sorted(HERE.glob("[0-9]*.py")):
        target = twin_path.with_suffix(".ipynb")
        write(notebook_of(twin_path.read_text(encoding="utf-8")), target)
        print(f"wrote {target.name}")
