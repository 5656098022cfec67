"""From a checkpoint, classifiers and targets to controlled text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax.chain import example_keys, make_chain, run_batches
from diffusion_jax.classifier_run import TrainedClassifier, check_steerable
from diffusion_jax.config import ExperimentConfig, GuidanceConfig
from diffusion_jax.control.candidate import Candidate, decode, is_complete
from diffusion_jax.control.compose import OWN, Own, Wanted, log_probs, make_guidance
from diffusion_jax.control.layouts import Holes, lay_out
from diffusion_jax.control.score import denoising_score, layout_shares
from diffusion_jax.control.wishes import (
    Plan,
    PlanRow,
    Wish,
    check_targets,
    plan_row,
    plan_wishes,
    stack_wishes,
)
from diffusion_jax.errors import UserError
from diffusion_jax.generate import Generator, check_batch_and_seed
from diffusion_jax.models.base import Model
from diffusion_jax.program import Program
from diffusion_jax.text.control_targets import Target
from diffusion_jax.text.labels import AttributeLabels
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.text.tokenizers.base import special_ids
from diffusion_jax.types import LogProbFn, Params


class _Scores(NamedTuple):
    log_probs: dict[str, Any]
    model_score: Any


@dataclass(frozen=True)
class Controller:
    """A model of single texts with the classifiers that steer it.

    Attributes:
        generator: the model without control; its ``config.sample`` says how to sample.
        options: how to steer.
        model: the denoiser.
        classifiers: task -> classifier.
        holes: how templates are laid out.
        chain: the compiled chain; one program for each set of kinds of controls.
        score: compiled scores of texts.
        compose: makes the chain once more, to record its steps; see ``chain.make_chain``.
        own: a wish of the user's own, see ``steered_by``.
    """

    generator: Generator
    options: GuidanceConfig
    model: Model
    classifiers: Mapping[str, TrainedClassifier]
    holes: Holes
    chain: Callable[..., Any]
    score: Callable[..., Any]
    compose: Callable[..., Any]
    own: Own | None = None

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        classifiers: Sequence[str | Path] = (),
        options: GuidanceConfig | None = None,
        *,
        weights: str = "ema",
        step: int | None = None,
        holes: Holes | None = None,
        **sample_options: Any,
    ) -> "Controller":
        """Read a run directory and the directories of classifiers that were trained on it.

        Args:
            path: the run directory of a model of single texts.
            classifiers: directories that ``train-classifier`` wrote, one for each task.
            options: how to steer.
            weights: of the denoiser, see ``Generator.from_checkpoint``.
            step: which checkpoint of the denoiser.
            holes: how templates are laid out.
            **sample_options: fields of ``config.SampleConfig`` to change.

        Raises:
            UserError: no such run, a classifier of other embeddings or of a task that another one
                has, or an option that is not allowed.
        """
        generator = Generator.from_checkpoint(path, weights=weights, step=step, **sample_options)
        check_steerable(path, generator.config)
        trained = _load_classifiers(classifiers, generator)
        return cls.build(generator, trained, options or GuidanceConfig(), holes or Holes())

    @classmethod
    def build(
        cls,
        generator: Generator,
        classifiers: Mapping[str, TrainedClassifier],
        options: GuidanceConfig,
        holes: Holes,
        own: Own | None = None,
    ) -> "Controller":
        """Make a controller from what is in memory."""
        config, words = generator.config, generator.tokenizer
        model, schedule = Program.build(config).model, generator.schedule
        compose = partial(
            make_chain,
            model,
            config.model,
            schedule,
            config.sample,
            make_guidance=make_guidance(
                model,
                classifiers,
                options,
                timesteps=schedule.num_timesteps,
                self_condition=config.model.self_conditioning,
                draws_noise=config.sample.draws_noise,
                own=own,
            ),
            special_ids=special_ids(words),
        )

        def score(params: Params, ids: jax.Array, wanted: Wanted) -> _Scores:
            x = model.embed(params, ids)
            time = jax.numpy.full(ids.shape[:1], schedule.model_timesteps[0], jax.numpy.float32)
            functions = log_probs(wanted, classifiers, own)
            found = {kind: f(x, time) for kind, f in functions.items()}
            by_itself = denoising_score(
                model, params, schedule, ids, self_condition=config.model.self_conditioning
            )
            return _Scores(found, by_itself)

        return cls(
            generator=generator,
            options=options,
            model=model,
            classifiers=classifiers,
            holes=holes,
            chain=jax.jit(compose()),
            score=jax.jit(score),
            compose=compose,
            own=own,
        )

    @property
    def config(self) -> ExperimentConfig:
        """Configuration of the model's run."""
        return self.generator.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Ids to text and back."""
        return self.generator.tokenizer

    @property
    def params(self) -> Params:
        """Parameters of the denoiser."""
        return self.generator.params

    def with_options(self, **changes: Any) -> "Controller":
        """Return the same model steered with other options (``config.GuidanceConfig`` fields)."""
        options = replace(self.options, **changes)
        return Controller.build(self.generator, self.classifiers, options, self.holes, self.own)

    def with_classifiers(self, directories: Sequence[str | Path]) -> "Controller":
        """Return the same model with these classifiers; see ``from_checkpoint``."""
        trained = _load_classifiers(directories, self.generator)
        return Controller.build(self.generator, trained, self.options, self.holes, self.own)

    def steered_by(self, log_prob: LogProbFn, *, weight: float = 1.0) -> "Controller":
        """Return the same model, every text of which climbs a log-probability of your own as well.

        Args:
            log_prob: (vectors float32 [B, L, E], time float32 [B]) -> float32 [B],
                differentiable in the vectors. It is asked about the denoiser's estimate of
                ``x_start`` (about noisy states with ``through="classifier"``), and about the
                embeddings of the final words, for the choice of the best candidate.
            weight: of it beside the other controls.
        """
        own = Own(log_prob, weight)
        return Controller.build(self.generator, self.classifiers, self.options, self.holes, own)

    @property
    def fields(self) -> Mapping[str, Sequence[str]]:
        """The attributes that the classifier tells, with their values; {} without one."""
        told = self.classifiers.get("attribute")
        return {} if told is None else told.labels_as(AttributeLabels).fields

    @property
    def length(self) -> int:
        """L, positions of a row."""
        return self.config.data.length

    def check(self, targets: Sequence[Target]) -> None:
        """Raise UserError for a target that cannot be honoured; compiles nothing.

        A target that asks for nothing is one where the user's own wish steers.
        """
        if self.own is not None:
            targets = [target for target in targets if target.controls()]
        check_targets(targets, self.classifiers, self.tokenizer, self.length)
        for number, target in enumerate(targets, start=1):
            try:
                self.layouts(target)
            except UserError as error:
                raise UserError(f"target {number}: {error}") from error

    def layouts(self, target: Target) -> list[Plan]:
        """Return one plan for each layout of the target's template; see ``layouts.lay_out``."""
        return lay_out(target, self.holes, self.tokenizer, self.length - 2)

    def write(
        self,
        targets: Sequence[Target],
        num_samples: int,
        *,
        seed: int = 0,
        batch_size: int = 64,
        first_index: int = 0,
    ) -> Iterator[list[Candidate]]:
        """Write N candidates for each target, in order.

        A target with a template is screened first: see ``Holes.screen``.

        Args:
            targets: what is asked; targets of different kinds may be mixed.
            num_samples: N.
            seed: candidate i of target k depends on the seed, k and i alone.
            batch_size: rows per compiled call.
            first_index: k of the first target, for a run that is resumed in the middle.

        Raises:
            UserError: at once for a target that cannot be honoured or a number out of range.
        """
        self.check(targets)
        options = {"seed": seed, "batch_size": batch_size, "first_index": first_index}
        return self.write_plans(self.plans(targets, num_samples, **options), **options)

    def plans(
        self,
        targets: Sequence[Target],
        num_samples: int,
        *,
        seed: int = 0,
        batch_size: int = 64,
        first_index: int = 0,
    ) -> list[list[Plan]]:
        """Return N plans for each target; where a template has several layouts, by screening."""
        if num_samples < 1:
            raise UserError(f"num_samples is {num_samples}; ask for at least 1")
        ways = [self.layouts(target) for target in targets]
        open_ones = [i for i, layouts in enumerate(ways) if len(layouts) > 1]
        plans = [list(layouts) * num_samples for layouts in ways]
        trials = [[plan for plan in ways[i] for _ in range(self.holes.screen)] for i in open_ones]
        indices = [first_index + i for i in open_ones]
        check_batch_and_seed(batch_size, seed)
        # Other noise than that of the samples.
        screened = self._write(trials, seed ^ 2**31, batch_size, indices)
        for i, candidates in zip(open_ones, screened):
            scores = np.reshape([c.model_score for c in candidates], (len(ways[i]), -1))
            shares = layout_shares(scores.max(axis=1), num_samples)
            plans[i] = [plan for plan, share in zip(ways[i], shares) for _ in range(share)]
        return plans

    def write_plans(
        self,
        plans: Sequence[Sequence[Plan]],
        *,
        seed: int = 0,
        batch_size: int = 64,
        first_index: int = 0,
    ) -> Iterator[list[Candidate]]:
        """Write one candidate for each plan of each target, in order; see ``write``."""
        check_batch_and_seed(batch_size, seed)
        indices = range(first_index, first_index + len(plans))
        return self._write(plans, seed, batch_size, indices)

    def _write(
        self, plans: Sequence[Sequence[Plan]], seed: int, batch_size: int, indices: Sequence[int]
    ) -> Iterator[list[Candidate]]:
        # What any target wants is an array of every batch, so that all share one program.
        if not plans:
            return
        shapes = self._wish_shapes(plans)
        batch_size = min(batch_size, sum(map(len, plans)))
        start = 0
        while start < len(plans):
            stop, rows = start, 0
            while stop < len(plans) and (stop == start or rows + len(plans[stop]) <= batch_size):
                rows += len(plans[stop])
                stop += 1
            some = slice(start, stop)
            yield from self._write_some(plans[some], indices[some], seed, batch_size, shapes)
            start = stop

    def _wish_shapes(self, plans: Sequence[Sequence[Plan]]) -> dict[str, tuple[int, ...]]:
        firsts = [self._wishes(ways[0]) for ways in plans]
        stacked = stack_wishes(firsts)
        return {kind: wish.targets.shape[1:] for kind, wish in stacked.items()}

    def _wishes(self, plan: Plan) -> dict[str, Wish]:
        return plan_wishes(plan, self.classifiers, self.tokenizer, self.length, self.options)

    def _write_some(
        self,
        plans: Sequence[Sequence[Plan]],
        indices: Sequence[int],
        seed: int,
        batch_size: int,
        shapes: Mapping[str, tuple[int, ...]],
    ) -> list[list[Candidate]]:
        flat = [plan for ways in plans for plan in ways]
        rows = [plan_row(plan, self.tokenizer, self.length, self.options) for plan in flat]
        arrays = jax.tree.map(lambda *parts: np.stack(parts), *rows)
        wishes = stack_wishes([self._wishes(plan) for plan in flat], shapes)
        keys = jax.numpy.concatenate(
            [example_keys(seed, [i], len(ways)) for i, ways in zip(indices, plans)]
        )
        params = {kind: c.params for kind, c in self.classifiers.items() if kind in wishes}

        def run(keys: jax.Array, row: PlanRow, wishes: Any) -> Any:
            wanted = Wanted(wishes, params)
            ids, noise_mask, word_mask = row
            written = self.chain(self.params, keys, ids, noise_mask, wanted, word_mask).ids
            return written, self.score(self.params, written, wanted)

        written, scores = run_batches(run, (keys, arrays, wishes), batch_size)
        candidates = [
            Candidate(
                text=decode(row, self.tokenizer),
                log_probs={
                    kind: float(values[i])
                    for kind, values in scores.log_probs.items()
                    if kind == OWN or wishes[kind].weight[i] > 0
                },
                model_score=float(scores.model_score[i]),
                complete=is_complete(row, flat[i], self.tokenizer),
                plan=flat[i],
            )
            for i, row in enumerate(written)
        ]
        ends = np.cumsum([len(ways) for ways in plans])
        return [candidates[end - len(ways) : end] for end, ways in zip(ends, plans)]


def _load_classifiers(
    directories: Sequence[str | Path], generator: Generator
) -> dict[str, TrainedClassifier]:
    """Return task -> classifier; raises UserError for one that does not fit, or two of a task."""
    trained: dict[str, TrainedClassifier] = {}
    for directory in directories:
        classifier = TrainedClassifier.load(directory)
        classifier.check_fits(generator.params, generator.config)
        if classifier.task in trained:
            raise UserError(
                f"{directory} and {trained[classifier.task].path} are both classifiers for "
                f"{classifier.task!r}; give one"
            )
        trained[classifier.task] = classifier
    return trained
