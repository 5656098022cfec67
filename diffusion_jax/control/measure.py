"""Success and fluency of control, beside what one gets without it."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jax.scipy.stats import binom

from diffusion_jax.control.choose import order
from diffusion_jax.control.judge import Judge, Verdict
from diffusion_jax.control.kept import Kept, KeptTexts
from diffusion_jax.control.steer import Controller
from diffusion_jax.control.tasks import CONTROL_NAMES
from diffusion_jax.control.wishes import Plan
from diffusion_jax.scale.compilation import running_time
from diffusion_jax.text.control_targets import Target
from diffusion_jax.types import Params

Texts = Sequence[Sequence[str]]
"""N texts for each target."""

Fluency = Callable[[Sequence[str]], float]
"""texts -> nats per token under a judge of fluency."""


class Writer(NamedTuple):
    """Another way to write texts for targets of one task: a baseline.

    Attributes:
        name: for the table.
        task: what it can do.
        write: (targets, texts for each, seed) -> texts.
        params: its weights.
    """

    name: str
    task: str
    write: Callable[[Sequence[Target], int, int], Texts]
    params: Params | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table: a method on a task.

    Attributes:
        task: see ``tasks``.
        method: "control", "no control", "rejection", ...
        controls: what every target asks for, as tasks are named; () where they differ.
        targets: number of targets.
        samples: texts per target.
        success: share of texts that obey every control; None where nobody can tell.
        success_error: its standard error over targets.
        by_control: the same share for each control alone.
        in_language: share of texts that are sentences of the language; None elsewhere.
        success_in_language: success among those that are.
        measures: means of finer figures, see ``judge.Verdict``; over all texts.
        nats_per_token: under the teacher; None without one.
        seconds_per_text: what a text costs.
        distinct: distinct texts among those of one target, on average.
    """

    task: str
    method: str
    controls: tuple[str, ...]
    targets: int
    samples: int
    success: float | None
    success_error: float | None = None
    by_control: dict[str, float] | None = None
    in_language: float | None = None
    success_in_language: float | None = None
    measures: dict[str, float] | None = None
    nats_per_token: float | None = None
    seconds_per_text: float | None = None
    distinct: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the figures that there are."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def common_controls(targets: Sequence[Target]) -> tuple[str, ...]:
    """Return what every target asks for, as tasks are named; () where they differ."""
    asked = {
        tuple(sorted(CONTROL_NAMES.get(control, control) for control in target.controls()))
        for target in targets
    }
    return asked.pop() if len(asked) == 1 else ()


def summarise(
    task: str,
    method: str,
    targets: Sequence[Target],
    texts: Texts,
    judge: Judge,
    *,
    fluency: Fluency | None = None,
    seconds: float | None = None,
) -> Row:
    """Judge N texts for each target and average: over the texts of a target, then over targets."""
    verdicts = [[judge(text, target) for text in group] for target, group in zip(targets, texts)]
    flat = [verdict for group in verdicts for verdict in group]
    success, error = _mean_over_targets(verdicts)
    known = [v for v in flat if v.fluent is not None]
    inside = [v for v in flat if v.fluent]
    # Of what nobody can tell nothing is said.
    told = [{k: held for k, held in v.holds.items() if held is not None} for v in flat]
    controls = {name for held in told for name in held}
    measured = {name for verdict in flat for name in verdict.measures}
    written = [text for group in texts for text in group]
    return Row(
        task=task,
        method=method,
        controls=common_controls(targets),
        targets=len(targets),
        samples=len(texts[0]),
        success=success,
        success_error=error,
        by_control={
            name: _mean([held[name] for held in told if name in held]) for name in sorted(controls)
        },
        in_language=_mean([v.fluent for v in known]) if known else None,
        success_in_language=_mean([v.all_hold() for v in inside]) if inside else None,
        measures={
            name: _mean([v.measures[name] for v in flat if name in v.measures])
            for name in sorted(measured)
        },
        nats_per_token=fluency(written) if fluency is not None else None,
        seconds_per_text=None if seconds is None else seconds / max(len(written), 1),
        distinct=_mean([len(set(group)) for group in texts]),
    )


def rejection(
    task: str,
    targets: Sequence[Target],
    pool: Sequence[str],
    judge: Judge,
    *,
    num_samples: int,
    draws: float,
) -> Row:
    """Return what rejection sampling reaches: draw without control, keep what obeys.

    Of ``draws`` texts for each target, the first ``num_samples`` that obey are handed out, and
    others where they are too few. Shares are exact expectations under the pool.

    Args:
        task: for the table.
        targets: what is asked.
        pool: texts without control.
        judge: also what accepts: rejection is told the truth, which flatters it.
        num_samples: texts to hand out for each target.
        draws: texts that fit into the time which control takes for a target.
    """
    filled, fluent = [], []
    for target in targets:
        verdicts = [judge(text, target) for text in pool]
        hits = [v for v in verdicts if v.all_hold()]
        share = _expected_hits(draws, len(hits) / len(pool), num_samples) / num_samples
        filled.append(share)
        if verdicts[0].fluent is not None:
            others = [v.fluent for v in verdicts if not v.all_hold()]
            of_hits = _mean([v.fluent for v in hits]) if hits else 0.0
            fluent.append(share * of_hits + (1 - share) * (_mean(others) if others else 0.0))
    return Row(
        task=task,
        method="rejection, equal time",
        controls=common_controls(targets),
        targets=len(targets),
        samples=num_samples,
        success=_mean(filled),
        success_error=_error(filled),
        in_language=_mean(fluent) if fluent else None,
    )


def _expected_hits(draws: float, share: float, wanted: int) -> float:
    """Return the mean of min(hits, wanted), where each of ``draws`` texts obeys with ``share``."""
    # Of half a draw there is half a hit.
    whole = int(draws)
    few = np.arange(wanted)

    def mean(count: int) -> float:
        return float(wanted - np.sum((wanted - few) * binom.pmf(few, count, share)))

    return mean(whole) + (draws - whole) * (mean(whole + 1) - mean(whole))


class Measurement:
    """The table of one model: every task with and without control."""

    def __init__(
        self,
        controller: Controller,
        judge: Judge,
        *,
        num_samples: int,
        seed: int,
        batch_size: int,
        pool_size: int,
        fluency: Fluency | None = None,
        writers: Sequence[Writer] = (),
        kept: KeptTexts | None = None,
    ):
        """Say what is measured.

        Args:
            controller: the model, its classifiers and how they steer it.
            judge: says what holds.
            num_samples: texts for each target.
            seed: of the texts.
            batch_size: rows per compiled call.
            pool_size: texts without control, for the baselines; 0 leaves them out.
            fluency: nats per token of texts.
            writers: other ways to write for the same targets.
            kept: where texts are kept; what is there already is not written again.
        """
        self.controller = controller
        self.judge = judge
        self.num_samples = num_samples
        self.seed = seed
        self.batch_size = batch_size
        self.pool_size = pool_size
        self.fluency = fluency
        self.writers = writers
        # One without entries is false.
        self.kept = KeptTexts() if kept is None else kept
        # Called whenever the texts of one more target are there.
        self.advance: Callable[[], None] = lambda: None

    def rows(self, task: str, targets: Sequence[Target]) -> Iterator[Row]:
        """Yield the lines of one task: control, no control, rejection at equal time."""
        written = self._controlled(task, targets)
        seconds = sum(kept.seconds for kept in written)
        shared = {"fluency": self.fluency, "seconds": seconds}
        texts = [kept.texts for kept in written]
        yield summarise(task, "control", targets, texts, self.judge, **shared)
        best = [[kept.texts[kept.best]] for kept in written]
        method = f"control, best of {self.num_samples}"
        yield summarise(task, method, targets, best, self.judge, **shared)
        for writer in self.serving(targets):
            others = self._by_writer(writer, task, targets)
            shared["seconds"] = sum(kept.seconds for kept in others)
            texts = [kept.texts for kept in others]
            yield summarise(task, writer.name, targets, texts, self.judge, **shared)
        if self.pool_size == 0:
            return
        pool, taken, _ = self._uncontrolled()
        fluency = self.fluency
        yield summarise(
            task,
            "no control",
            targets,
            [pool] * len(targets),
            self.judge,
            seconds=taken * len(targets),
            fluency=fluency and (lambda _: fluency(pool)),
        )
        draws = seconds / len(targets) / (taken / len(pool))
        yield rejection(task, targets, pool, self.judge, num_samples=self.num_samples, draws=draws)

    def steps(self, tasks: Iterable[Sequence[Target]]) -> int:
        """Return how often ``advance`` is called for tasks of which nothing is kept yet."""
        ways = sum(len(targets) * (1 + len(self.serving(targets))) for targets in tasks)
        return ways + (self.pool_size > 0)

    def serving(self, targets: Sequence[Target]) -> list[Writer]:
        """Return the baselines that can do what these targets ask."""
        return [writer for writer in self.writers if common_controls(targets) == (writer.task,)]

    def _controlled(self, task: str, targets: Sequence[Target]) -> list[Kept]:
        """Return the controlled texts of all targets."""
        written = self.kept.of(task, "control", targets)
        done = len(written)
        if done == len(targets):
            return written
        options = {"seed": self.seed, "batch_size": self.batch_size, "first_index": done}
        before = 0.0
        with running_time() as running:
            writing = self.controller.write(targets[done:], self.num_samples, **options)
            for target, candidates in zip(targets[done:], writing):
                now = running()
                texts = [candidate.text for candidate in candidates]
                written.append(Kept(texts, now - before, order(candidates, "classifier")[0]))
                before = now
                self._keep(task, "control", target, written[-1])
        return written

    def _by_writer(self, writer: Writer, task: str, targets: Sequence[Target]) -> list[Kept]:
        """Return the texts of a baseline, which writes for all targets at once."""
        written = self.kept.of(task, writer.name, targets)
        missing = targets[len(written) :]
        if not missing:
            return written
        with running_time() as running:
            texts = writer.write(targets, self.num_samples, self.seed)[len(written) :]
            each = running() / len(targets)
        for target, group in zip(missing, texts):
            written.append(Kept(list(group), each))
            self._keep(task, writer.name, target, written[-1])
        return written

    def _uncontrolled(self) -> Kept:
        """Return texts for which nothing is asked; they serve all tasks."""
        nothing = Target()
        found = self.kept.of("", "no control", [nothing])
        if found:
            return found[0]
        plans = [[Plan(nothing)] * self.pool_size]
        with running_time() as running:
            options = {"seed": self.seed, "batch_size": self.batch_size}
            written = next(self.controller.write_plans(plans, **options))
            pool = Kept([candidate.text for candidate in written], running())
        self._keep("", "no control", nothing, pool)
        return pool

    def _keep(self, task: str, method: str, target: Target, texts: Kept) -> None:
        self.kept.add(task, method, target, texts)
        self.advance()


def _mean_over_targets(verdicts: Sequence[Sequence[Verdict]]) -> tuple[float | None, float | None]:
    outcomes = [[verdict.all_hold() for verdict in group] for group in verdicts]
    if any(outcome is None for group in outcomes for outcome in group):
        return None, None
    shares = [_mean([bool(outcome) for outcome in group]) for group in outcomes]
    return _mean(shares), _error(shares)


def _mean(values: Sequence[Any]) -> float:
    return float(np.mean([float(value) for value in values])) if values else math.nan


def _error(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
