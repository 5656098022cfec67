"""Hooks that look at the state now and then: validation and samples."""

from collections.abc import Callable, Mapping, Sequence

import jax

from diffusion_jax.train.events import StateEvent
from diffusion_jax.train.metrics import MetricWriter
from diffusion_jax.train.state import TrainState


class Validate:
    """A state hook: compute something on held-out data, write it and say it.

    The computation runs on every process, because it may use arrays that are spread over all of
    them; the writers write on process 0 only.
    """

    def __init__(
        self,
        evaluate: Callable[[TrainState], Mapping[str, float]],
        *writers: MetricWriter,
        say: Callable[[str], None] | None = None,
    ):
        """Prepare to validate.

        Args:
            evaluate: state -> numbers by name.
            writers: where the numbers go.
            say: where the line for people goes, e.g. ``ProgressReport.print``; default
                standard output, of process 0 only.
        """
        self._evaluate = evaluate
        self._writers = writers
        self._say = say or _print_once

    def __call__(self, event: StateEvent) -> None:
        """Validate the state of one step."""
        values = {f"validation/{name}": v for name, v in self._evaluate(event.state).items()}
        for writer in self._writers:
            writer.write(event.step, values)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._say(f"step {event.step}: {shown}")


class Preview:
    """A state hook: show a few samples of what the model writes by now."""

    def __init__(
        self,
        preview: Callable[[TrainState], Sequence[str]],
        *,
        say: Callable[[str], None] | None = None,
    ):
        """Prepare to show samples.

        Args:
            preview: state -> texts; runs on every process.
            say: where the texts go, e.g. ``ProgressReport.print``; default
                standard output, of process 0 only.
        """
        self._preview = preview
        self._say = say or _print_once

    def __call__(self, event: StateEvent) -> None:
        """Show samples of one step."""
        self._say(f"step {event.step}, samples:")
        for text in self._preview(event.state):
            self._say(f"  {text}")


def _print_once(text: str) -> None:
    if jax.process_index() == 0:
        print(text)
