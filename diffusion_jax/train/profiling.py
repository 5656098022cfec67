"""A trace of a few training steps, for TensorBoard's profiler, xprof or Perfetto."""

import os
from types import TracebackType
from typing import Self

import jax

from diffusion_jax.train.events import StepEvent


class Profile:
    """A step hook: record what host and devices do during a few steps. Only process 0 records.

    The first steps are left out: they compile and warm up. Use it as a context manager, so that the
    trace of a run that ends early is written too.

    The directory then holds ``plugins/profile/<time>/*.xplane.pb`` (for ``tensorboard`` or
    ``xprof --logdir``) and ``*.trace.json.gz`` (to be opened at Perfetto or chrome://tracing).
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, steps: int, first_step: int, skip: int = 2
    ):
        """Prepare to record.

        Args:
            directory: where the trace goes.
            steps: how many steps to record; 0 records nothing.
            first_step: the first step that this process makes (from 1).
            skip: steps to let pass before.
        """
        self._directory = os.fspath(directory)
        self._from = first_step + skip
        self._until = self._from + steps
        self._enabled = steps > 0 and jax.process_index() == 0
        self._recording = False

    def __call__(self, event: StepEvent) -> None:
        """Begin or end the recording where it is time."""
        # A step is reported while the next one runs, so the recording starts one report early.
        if self._enabled and not self._recording and event.step == self._from - 1:
            jax.profiler.start_trace(self._directory)
            self._recording = True
        elif self._recording and event.step >= self._until:
            self.close()

    def close(self) -> None:
        """Write the trace, if one is being recorded."""
        if self._recording:
            self._recording = False
            jax.profiler.stop_trace()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
