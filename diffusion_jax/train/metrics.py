"""Where the numbers of a run go: JSON lines, and TensorBoard where it is installed."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import jax

from diffusion_jax.errors import UserError
from diffusion_jax.train.events import StepEvent
from diffusion_jax.train.step import NUM_QUARTERS


class MetricWriter(Protocol):
    """Somewhere to put numbers; does nothing on processes other than 0."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Store the numbers of one step by name."""
        ...


def readable_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Turn sums and counts per quarter of t into means, leaving out empty quarters.

    Args:
        metrics: as from the training step.

    Returns:
        The other entries unchanged, without ``finite``, and ``total_q0`` to ``total_q3``.
    """
    quarters = {
        f"total_q{q}": metrics[f"total_q{q}_sum"] / metrics[f"total_q{q}_count"]
        for q in range(NUM_QUARTERS)
        if metrics.get(f"total_q{q}_count")
    }
    plain = {
        name: value
        for name, value in metrics.items()
        if name != "finite" and not name.startswith("total_q")
    }
    return {**plain, **quarters}


class JsonLines:
    """One JSON object per line, appended; only process 0 writes.

    On resume the lines after the restored step are dropped, so that the file reads like that of a
    run which never stopped.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume_step: int = 0):
        """Open the file for appending.

        Args:
            path: created with its directory when absent.
            resume_step: keep lines up to this step; 0 starts an empty file.
        """
        self._path = Path(path)
        self._file = None
        if jax.process_index() == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _keep_lines(self._path, resume_step)
            self._file = self._path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line; numbers that JSON cannot hold become null."""
        if self._file is None:
            return
        legal = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        self._file.write(json.dumps({"step": step, **legal}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def require_tensorboard() -> Any:
    """Return the class that writes event files; raises UserError where it is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError(
            "TensorBoard was asked for, but tensorboardX is not installed; "
            "pip install 'diffusion-jax[tensorboard]'"
        ) from error
    return SummaryWriter


class TensorBoard:
    """TensorBoard event files; only process 0 writes. Needs the extra ``tensorboard``."""

    def __init__(self, directory: str | os.PathLike[str], *, resume_step: int = 0):
        """Open an event file.

        Args:
            directory: of the event files of the run.
            resume_step: hide what an earlier process wrote after this step.

        Raises:
            UserError: when tensorboardX is not installed.
        """
        writer_class = require_tensorboard()
        self._writer = None
        if jax.process_index() == 0:
            self._writer = writer_class(os.fspath(directory), purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Add one point to the curve of every value."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is buffered and close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class WriteMetrics:
    """A step hook: write the metrics of every ``every``-th step, and how fast it was.

    A line holds the values of its own step, not a mean over steps, so that it does not depend on
    where a run was interrupted.
    """

    def __init__(self, *writers: MetricWriter, every: int = 1):
        """Write to all ``writers``."""
        if every < 1:
            raise UserError(f"log_every is {every}; it must be at least 1")
        self._writers = writers
        self._every = every

    def __call__(self, event: StepEvent) -> None:
        """Write one line where it is due."""
        if event.step % self._every and event.step != event.total_steps:
            return
        values = {
            **readable_metrics(event.metrics),
            "step_seconds": event.seconds,
            "data_wait_seconds": event.waited_seconds,
            "tokens_per_second": event.tokens / event.seconds,
        }
        for writer in self._writers:
            writer.write(event.step, values)


def _keep_lines(path: Path, last_step: int) -> None:
    """Drop lines after ``last_step``, and a last line that was cut short."""
    if not path.exists():
        return
    kept = path.with_name(path.name + ".tmp")
    with path.open(encoding="utf-8", errors="replace") as old, kept.open("w") as new:
        for line in old:
            step = _step_of(line)
            if step is not None and step <= last_step:
                new.write(line)
    kept.replace(path)


def _step_of(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None
