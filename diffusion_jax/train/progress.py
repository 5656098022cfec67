"""What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere."""

import time
from collections import deque
from statistics import fmean
from types import TracebackType
from typing import Self

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diffusion_jax.train.events import StepEvent

_SHOWN = (
    *("total", "mse", "cross_entropy", "prior", "rounding_nll", "nll", "nats", "accuracy"),
    "grad_norm",
)


class ProgressReport:
    """A step hook: step, loss terms, tokens per second and time left. Only process 0 prints.

    Use it as a context manager, so that the terminal is left in order.
    """

    def __init__(self, *, console: Console | None = None, seconds_between_lines: float = 10.0):
        """Prepare to report.

        Args:
            console: where to; default standard error, so that standard output stays clean.
            seconds_between_lines: how often to print where there is no terminal.
        """
        self.console = console or Console(stderr=True)
        self._seconds_between_lines = seconds_between_lines
        self._quiet = jax.process_index() != 0
        self._last_line = -float("inf")
        self._started = False
        self._recent_seconds: deque[float] = deque(maxlen=50)
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=self._quiet or not self.console.is_terminal,
        )
        self._task = self._bar.add_task("")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def print(self, text: str) -> None:
        """Print above the bar."""
        if not self._quiet:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __call__(self, event: StepEvent) -> None:
        """Show one step."""
        # The first step compiles, which says nothing about the speed of the others.
        if self._started:
            self._recent_seconds.append(event.seconds)
        self._started = True
        seconds = fmean(self._recent_seconds) if self._recent_seconds else event.seconds
        terms = " ".join(
            f"{name} {event.metrics[name]:.3g}" for name in _SHOWN if name in event.metrics
        )
        text = f"{terms} | {event.tokens / seconds:,.0f} tokens/s"
        self._bar.update(
            self._task, completed=event.step, total=event.total_steps, description=text
        )
        if self.console.is_terminal:
            return
        now = time.monotonic()
        if now - self._last_line >= self._seconds_between_lines or event.step == event.total_steps:
            self._last_line = now
            left = (event.total_steps - event.step) * seconds
            self.print(f"step {event.step}/{event.total_steps} {text}, {_duration(left)} left")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
