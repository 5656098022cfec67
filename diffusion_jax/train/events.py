"""What the training loop tells its hooks."""

from collections.abc import Callable
from typing import NamedTuple

from diffusion_jax.train.state import TrainState


class StepEvent(NamedTuple):
    """One finished step, reported while the next one is already running.

    Attributes:
        step: updates made, this one included (from 1).
        total_steps: updates of the whole run.
        metrics: what the step returned, as Python numbers (see ``train.step``).
        seconds: wall time since the step before was reported.
        waited_seconds: how much of it the loop waited for data.
        tokens: positions of the global batch, given and padded ones included.
    """

    step: int
    total_steps: int
    metrics: dict[str, float]
    seconds: float
    waited_seconds: float
    tokens: int


class StateEvent(NamedTuple):
    """A pause between two steps, in which the state may be read.

    Attributes:
        step: updates made.
        total_steps: updates of the whole run.
        state: the state after ``step``; its buffers are reused once the hook returns.
    """

    step: int
    total_steps: int
    state: TrainState


StepHook = Callable[[StepEvent], None]
"""Called after every step, on every process."""

StateHook = Callable[[StateEvent], None]


class Every(NamedTuple):
    """Call a hook whenever the step is a multiple of ``steps``, on every process."""

    steps: int
    hook: StateHook
