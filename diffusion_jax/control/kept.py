"""Texts that were written to be measured: kept as they come, so that a stop loses none."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_jax.errors import UserError
from diffusion_jax.text.control_targets import Target
from diffusion_jax.text.files import json_object, read_lines


class Kept(NamedTuple):
    """What one way of writing made of one target.

    Attributes:
        texts: in the order in which they were written.
        seconds: what they took, without compilation.
        best: which of them classifiers and model like best.
    """

    texts: list[str]
    seconds: float
    best: int = 0


class KeptTexts:
    """Texts by task and method, one entry for each target in order; a file holds them too.

    Each line of the file is {"id", "task", "method", "target", "seconds", "best", "texts"}.
    """

    def __init__(self, path: Path | None = None):
        """Read what the file holds, if it is there.

        Args:
            path: the file; None keeps the texts in memory only.

        Raises:
            UserError: a line that was not written here.
        """
        self._path = path
        self._entries: dict[tuple[str, str], list[tuple[Any, Kept]]] = {}
        if path is not None and path.exists():
            for number, line in read_lines(path):
                self._read(line, f"{path} line {number}")

    def __len__(self) -> int:
        """Return for how many targets, over all tasks and methods, texts are kept."""
        return sum(map(len, self._entries.values()))

    def of(self, task: str, method: str, targets: Sequence[Target]) -> list[Kept]:
        """Return what was kept for the first of these targets.

        Raises:
            UserError: it was written for others.
        """
        entries = self._entries.get((task, method), [])[: len(targets)]
        for index, ((asked, _), target) in enumerate(zip(entries, targets)):
            if asked != target.to_json():
                raise UserError(
                    f"{self._path} was written for other targets ({task}, target {index}: {asked}, "
                    f"now {target.to_json()}); leave data, targets and their number as they were, "
                    "or choose another --output"
                )
        return [kept for _, kept in entries]

    def add(self, task: str, method: str, target: Target, kept: Kept) -> None:
        """Keep the texts of one more target."""
        entries = self._entries.setdefault((task, method), [])
        record = {"id": len(entries), "task": task, "method": method, "target": target.to_json()}
        record |= {"seconds": kept.seconds, "best": kept.best, "texts": kept.texts}
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as stream:
                print(json.dumps(record, ensure_ascii=False), file=stream)
        entries.append((record["target"], kept))

    def _read(self, line: str, place: str) -> None:
        record = json_object(line, place)
        try:
            entries = self._entries.setdefault((record["task"], record["method"]), [])
            if record["id"] != len(entries):
                raise UserError(f"{place}: target {record['id']} comes after {len(entries)} others")
            kept = Kept(record["texts"], record["seconds"], record["best"])
            entries.append((record["target"], kept))
        except (KeyError, TypeError):
            raise UserError(
                f"{place} is not of texts that evaluate-control keeps; choose another --output"
            ) from None
