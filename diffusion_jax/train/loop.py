"""The training loop: feed the step, watch the loss, save, stop when asked to."""

import logging
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from diffusion_jax.errors import RunError, UserError
from diffusion_jax.scale.agreement import Ballot
from diffusion_jax.scale.checkpoint import CheckpointStore
from diffusion_jax.text.prefetch import Prefetcher
from diffusion_jax.train.events import Every, StateEvent, StepEvent, StepHook
from diffusion_jax.train.interrupt import stop_on_signal
from diffusion_jax.train.state import TrainState
from diffusion_jax.train.step import TrainStep
from diffusion_jax.train.stopwatch import Stopwatch

logger = logging.getLogger(__name__)


class NonFiniteLossError(RunError):
    """Report a loss or gradient that is not a number; the run stopped without saving."""

    on_all_processes = True


class FitResult(NamedTuple):
    """How a run ended.

    Attributes:
        state: the last state.
        step: updates made.
        stopped_by: name of the signal that ended the run early, or None.
        seconds: wall time after the first step (which compiles).
        waited_seconds: how much of it was spent waiting for data.
        spent: seconds of the whole call by part, see ``Stopwatch``.
        steps: updates that this call made.
        tokens: positions of the global batches that it went over.
        batches: shapes and types of the batches, with the number of updates on each.
    """

    state: TrainState
    step: int
    stopped_by: str | None
    seconds: float
    waited_seconds: float
    spent: dict[str, float]
    steps: int
    tokens: int
    batches: list[tuple[Any, int]]


def fit(
    state: TrainState,
    train_step: TrainStep,
    batch_at: Callable[[int], Mapping[str, Any]],
    *,
    root_key: jax.Array,
    total_steps: int,
    place: Callable[[Mapping[str, Any]], Mapping[str, jax.Array]],
    store: CheckpointStore | None = None,
    checkpoint_every: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    hooks: Sequence[StepHook] = (),
    state_hooks: Sequence[Every] = (),
) -> FitResult:
    """Train from ``state.step`` to ``total_steps``.

    A resumed run is the same call with a restored state: batches and random numbers are functions
    of the step, so every later loss is bit-identical to that of a run which never stopped.

    Args:
        state: where to begin; donated.
        train_step: compiled step, see ``scale.sharding.jit_train_step``.
        batch_at: step (from 0) -> this process's rows, e.g. ``Loader.batch_at``; called in a
            background thread.
        root_key: typed key of the run.
        total_steps: updates of the whole run, those before ``state.step`` included.
        place: puts a batch on the devices, see ``scale.mesh.place_batch``; called in that thread.
        store: where to save; None saves nothing.
        checkpoint_every: save whenever the step is a multiple; the last step is always saved.
        metadata: JSON record saved with every checkpoint.
        hooks: called after every step with its metrics.
        state_hooks: called with the state now and then.

    Returns:
        The last state and how the run ended. After SIGINT or SIGTERM the state has been saved; with
        several processes a signal to one of them stops all at the same step.

    Raises:
        NonFiniteLossError: when a loss or gradient is not finite; nothing more is saved.
        UserError: when a number is out of range.
    """
    step = int(state.step)
    if step > total_steps:
        raise UserError(f"the run is at step {step} already, past total_steps={total_steps}")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise UserError(f"checkpoint_every is {checkpoint_every}; it must be at least 1, or None")
    for every in state_hooks:
        if every.steps < 1:
            raise UserError(f"a hook is to run every {every.steps} steps; give at least 1")

    ballot, stopped_by = Ballot(), 0
    watch = Stopwatch()
    first_step = step
    seen: dict[tuple[int, ...], tuple[Any, int]] = {}
    with (
        stop_on_signal() as stop,
        Prefetcher(batch_at, step, total_steps, place=place) as batches,
    ):
        reporter = _Reporter(batches, total_steps, hooks, lambda: _name_last_good(store), watch)
        for batch in batches:
            shape = batch["input_ids"].shape
            with watch.measure("compute" if shape in seen else "compile"):
                state, metrics = train_step(state, batch, root_key)
            abstract, times = seen.get(shape) or (jax.tree.map(jax.typeof, dict(batch)), 0)
            seen[shape] = abstract, times + 1
            step += 1
            # The step above is running; what it takes to report the one before costs no time.
            reporter.finish_pending()
            reporter.pending = (step, metrics, batch["input_ids"].size)

            stopped_by = ballot.ask(stop.signal_number)
            stopping = bool(stopped_by) or step == total_steps
            save = store is not None and (stopping or _is_due(step, checkpoint_every))
            due = [every.hook for every in state_hooks if _is_due(step, every.steps)]
            if save or due or stopping:
                reporter.finish_pending()
            if store is not None and save:
                with watch.measure("checkpoint"):
                    store.save(step, state, metadata)
            with watch.measure("hooks"):
                for hook in due:
                    hook(StateEvent(step, total_steps, state))
            if save or due:
                reporter.skip_time()
            if stopping:
                break
        watch.add("input", batches.waited_seconds)
    if store is not None:
        with watch.measure("checkpoint"):
            store.wait()
    name = signal.Signals(stopped_by).name if stopped_by else None
    if name:
        logger.warning(
            "stopped by %s at step %d of %d; %s",
            name,
            step,
            total_steps,
            "nothing is saved" if store is None else "the state is saved",
        )
    return FitResult(
        state,
        step,
        name,
        reporter.seconds,
        reporter.waited_seconds,
        watch.seconds(),
        step - first_step,
        reporter.tokens,
        list(seen.values()),
    )


class _Reporter:
    """Fetches the metrics of a step one step late, checks them, passes them on, and keeps time."""

    def __init__(
        self,
        batches: Prefetcher,
        total_steps: int,
        hooks: Sequence[StepHook],
        name_last_good: Callable[[], str],
        watch: Stopwatch,
    ):
        self.pending: tuple[int, Mapping[str, jax.Array], int] | None = None
        self.seconds = 0.0
        self.waited_seconds = 0.0
        self.tokens = 0
        self._batches = batches
        self._watch = watch
        self._total_steps = total_steps
        self._hooks = hooks
        self._name_last_good = name_last_good
        self._compiled = False
        self.skip_time()

    def skip_time(self) -> None:
        """Do not count what passed since the last report."""
        self._clock = time.perf_counter()
        self._waited = self._batches.waited_seconds

    def finish_pending(self) -> None:
        """Wait for the step that is pending, if any, and report it."""
        if self.pending is None:
            return
        step, on_device, tokens = self.pending
        self.pending = None
        with self._watch.measure("compute"):
            fetched = jax.device_get(dict(on_device))
        metrics = {name: value.item() for name, value in fetched.items()}
        if not metrics["finite"]:
            raise NonFiniteLossError(
                f"the loss or its gradient is not finite at step {step} "
                f"({_show_terms(metrics)}); {self._name_last_good()}. Try a lower learning rate, "
                f"a longer warm-up or a clip_norm"
            )
        seconds = time.perf_counter() - self._clock
        waited = self._batches.waited_seconds - self._waited
        self.skip_time()
        if self._compiled:
            self.seconds += seconds
            self.waited_seconds += waited
        self._compiled = True
        self.tokens += tokens
        with self._watch.measure("metrics"):
            for hook in self._hooks:
                hook(StepEvent(step, self._total_steps, metrics, seconds, waited, tokens))


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _name_last_good(store: CheckpointStore | None) -> str:
    if store is None:
        return "this run keeps no checkpoints"
    store.wait()
    steps = store.steps()
    if not steps:
        return "nothing was saved, and there is no earlier checkpoint"
    return f"nothing was saved; the last good checkpoint is {store.directory / str(steps[-1])}"


def _show_terms(metrics: Mapping[str, float]) -> str:
    shown = {"total": metrics.get("total"), "gradient norm": metrics.get("grad_norm")}
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    values = ", ".join(f"{name} {value}" for name, value in shown.items())
    return f"{values}; not finite: {', '.join(broken)}"
