"""Targets become arrays, and arrays become one guide: the composition of controls.

What is wanted is a row of every array, so one compiled program serves all targets that use the same
kinds of controls, and the rows of a batch may want different things.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.chain import MakeGuidance
from diffusion_jax.classifier_run import (
    TrainedClassifier,
    attribute_log_prob,
    pos_log_prob,
    tree_log_prob,
)
from diffusion_jax.config import GuidanceConfig
from diffusion_jax.errors import UserError
from diffusion_jax.guidance import (
    Objective,
    TokenPosterior,
    adagrad_guidance,
    estimate_posterior,
    fixed_words,
    for_rows,
    gradient_guidance,
    in_turn,
    keywords,
    latent_posterior,
    on_estimate,
    on_latent,
)
from diffusion_jax.models.base import Model
from diffusion_jax.samplers import Anchor
from diffusion_jax.text.control_targets import Target, check_target
from diffusion_jax.text.labels import AttributeLabels, SpanLabels, TagLabels
from diffusion_jax.text.templates import Layout, Template, encode_known, fill_row
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.text.trees import parse_tree
from diffusion_jax.types import DenoiseFn, Guidance, LogProbFn, Params, StepInfo, StepOutput

FREE = -1
# What "auto" does not steer at the noisy state: what a text says is told late, and by few words.
_THROUGH_DENOISER = ("attribute",)
_NEEDS = {"attributes": "attribute", "pos": "pos", "tree": "tree", "spans": "tree"}
_LOG_PROBS = {"attribute": attribute_log_prob, "pos": pos_log_prob, "tree": tree_log_prob}


class Wish(NamedTuple):
    """One kind of control for a batch.

    Attributes:
        targets: int32 [B, ...], -1 where a row wants nothing: values [B, F] of "attribute", tags
            [B, L] of "pos", charts [B, L, L] of "tree", ids [B, L] of "words", ids [B, W] of
            "keywords".
        weight: float32 [B], weight of the mean over what is wanted.
    """

    targets: Any
    weight: Any


class Wanted(NamedTuple):
    """What a batch is steered toward: an argument of the compiled chain.

    Attributes:
        wishes: kind of control -> Wish.
        classifiers: task -> parameters of its classifier.
    """

    wishes: Mapping[str, Wish]
    classifiers: Mapping[str, Params]


class Plan(NamedTuple):
    """One row to write: a target, and how its template's holes are laid out.

    Attributes:
        target: what is asked.
        template: of ``target.keep``; None without one.
        layout: tokens of each hole; () without a template.
    """

    target: Target
    template: Template | None = None
    layout: Layout = ()

    def num_tokens(self) -> int | None:
        """Return the length of the text where the plan settles it."""
        if self.template is None:
            return self.target.fixed_length()
        return self.template.num_words + sum(self.layout)


def check_targets(
    targets: Sequence[Target],
    classifiers: Mapping[str, TrainedClassifier],
    tokenizer: Tokenizer,
    row_length: int,
) -> None:
    """Raise UserError for a target that this model and these classifiers cannot honour."""
    for number, target in enumerate(targets, start=1):
        try:
            check_target(target, row_length - 2)
            for control in target.controls():
                task = _NEEDS.get(control)
                if task and task not in classifiers:
                    raise UserError(
                        f"{control} needs a classifier for the task {task!r}; train one with "
                        f"diffusion-jax train-classifier --task {task} and give its directory with "
                        "--classifier"
                    )
            plan_wishes(Plan(target), classifiers, tokenizer, row_length, GuidanceConfig())
        except UserError as error:
            raise UserError(f"target {number}: {error}") from error


class PlanRow(NamedTuple):
    """What goes into the chain for one plan, arrays [L].

    Attributes:
        input_ids: int32, the words that are anchored.
        noise_mask: bool, true where the chain generates.
        word_mask: bool, true where it must generate a word.
    """

    input_ids: np.ndarray
    noise_mask: np.ndarray
    word_mask: np.ndarray


def plan_row(plan: Plan, tokenizer: Tokenizer, length: int, options: GuidanceConfig) -> PlanRow:
    """Return the row that goes into the chain, with what is anchored in place.

    START is given wherever something is asked by position; END and padding where the length is
    known, and then all between is words.
    """
    nothing = np.zeros(length, np.bool_)
    if plan.template is not None and options.keep_by == "anchor":
        row = fill_row(plan.template, plan.layout, length, tokenizer)
        return PlanRow(row.input_ids, row.noise_mask, row.noise_mask)
    ids, generated = np.full(length, tokenizer.pad_id, np.int32), ~nothing
    count = plan.num_tokens()
    positional = set(plan.target.controls()) - {"attributes", "keywords"}
    if positional:
        ids[0], generated[0] = tokenizer.start_id, False
    if count is None or options.length_by == "gradient":
        return PlanRow(ids, generated, nothing)
    ids[count + 1] = tokenizer.end_id
    generated[count + 1 :] = False
    return PlanRow(ids, generated, generated)


def plan_wishes(
    plan: Plan,
    classifiers: Mapping[str, TrainedClassifier],
    tokenizer: Tokenizer,
    length: int,
    options: GuidanceConfig,
) -> dict[str, Wish]:
    """Return what one row asks of the guide: kind -> Wish of unbatched arrays.

    Raises:
        UserError: an unknown field, value, label or word; the nearest is named.
    """
    target = plan.target
    wishes: dict[str, Wish] = {}
    if target.attributes:
        labels = classifiers["attribute"].labels_as(AttributeLabels)
        wishes["attribute"] = Wish(labels.encode(target.attributes), options.attribute_weight)
    if target.pos is not None:
        tags = classifiers["pos"].labels_as(TagLabels).encode(target.pos, length)
        wishes["pos"] = Wish(tags, options.pos_weight)
    if target.tree is not None or target.spans:
        spans = classifiers["tree"].labels_as(SpanLabels)
        if target.tree is not None:
            tree = parse_tree(target.tree)
            chart = spans.encode(tree.spans, length, num_tokens=len(tree.tokens))
            wishes["tree"] = Wish(chart, options.tree_weight)
        else:
            wishes["tree"] = Wish(spans.encode(target.spans, length), options.span_weight)
    words = _wanted_words(plan, tokenizer, length, options)
    if words is not None:
        wishes["words"] = Wish(words, options.word_weight)
    if target.keywords:
        ids = [i for word in target.keywords for i in encode_known(word, tokenizer)]
        wishes["keywords"] = Wish(np.asarray(ids, np.int32), options.keyword_weight)
    return wishes


def _wanted_words(
    plan: Plan, tokenizer: Tokenizer, length: int, options: GuidanceConfig
) -> np.ndarray | None:
    """Return ids [L] that the guide climbs, -1 where free; None where nothing goes by gradient."""
    count = plan.num_tokens()
    words = np.full(length, FREE, np.int32)
    if plan.template is not None and options.keep_by == "gradient":
        row = fill_row(plan.template, plan.layout, length, tokenizer)
        return np.where(row.noise_mask, FREE, row.input_ids).astype(np.int32)
    if plan.template is None and count is not None and options.length_by == "gradient":
        words[count + 1] = tokenizer.end_id
        words[count + 2 :] = tokenizer.pad_id
        return words
    return None


def stack_wishes(
    rows: Sequence[Mapping[str, Wish]], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Wish]:
    """Return the wishes of a batch; a row without one of the kinds gets -1 and weight 0.

    Args:
        rows: what each row asks.
        shapes: kinds that the batch has, with the shape of a row's targets; None takes what there
            is.
    """
    if shapes is None:
        shapes = {}
        for kind in sorted({kind for row in rows for kind in row}):
            given = [np.shape(row[kind].targets) for row in rows if kind in row]
            shapes[kind] = tuple(map(max, zip(*given)))
    stacked = {}
    for kind, shape in shapes.items():
        targets = np.full((len(rows), *shape), FREE, np.int32)
        weight = np.zeros(len(rows), np.float32)
        for number, row in enumerate(rows):
            if kind in row:
                values = np.asarray(row[kind].targets)
                targets[(number, *map(slice, values.shape))] = values
                weight[number] = row[kind].weight
        stacked[kind] = Wish(targets, weight)
    return stacked


def log_probs(wanted: Wanted, classifiers: Mapping[str, TrainedClassifier]) -> dict[str, LogProbFn]:
    """Return kind -> mean log-probability of what is wanted, for the kinds with classifiers."""
    functions = {}
    for kind, wish in wanted.wishes.items():
        if kind in _LOG_PROBS:
            trained = replace(classifiers[kind], params=wanted.classifiers[kind])
            functions[kind] = _mean(_LOG_PROBS[kind](trained, wish.targets), wish.targets)
    return functions


def make_guidance(
    model: Model,
    classifiers: Mapping[str, TrainedClassifier],
    options: GuidanceConfig,
    *,
    timesteps: int,
    self_condition: bool,
    draws_noise: bool,
) -> MakeGuidance:
    """Return what makes the guide of a chain from ``Wanted``, see ``chain.make_chain``.

    Args:
        model: the denoiser.
        classifiers: task -> classifier; their parameters come with ``Wanted``.
        options: how to steer.
        timesteps: T of the schedule.
        self_condition: whether the network is given its own estimate.
        draws_noise: whether the sampler does.

    Returns:
        The guide; None where all that is asked is anchored.

    Raises:
        UserError: an option that does nothing with a sampler that draws no noise.
    """
    if not draws_noise:
        _check_without_noise(options)
    # Shares of the schedule as indices of its steps.
    min_t = int(np.ceil(options.lowest * timesteps))
    max_t = int(np.ceil(options.highest * timesteps)) - 1

    def guidance(
        params: Params, denoise: DenoiseFn, anchor: Anchor, wanted: Wanted
    ) -> Guidance | None:
        if not wanted.wishes:
            return None
        head = model.head(params)
        functions = log_probs(wanted, classifiers)

        def objective(kinds: Iterable[str], through: str) -> Objective:
            if through == "denoiser":
                posterior = estimate_posterior(head, denoise, self_condition=self_condition)
            else:
                posterior = latent_posterior(head.weight)
            terms = []
            for kind in kinds:
                wish = wanted.wishes[kind]
                if kind not in functions:
                    term = _word_objective(kind, posterior, wish.targets)
                elif through == "denoiser":
                    term = on_estimate(functions[kind], denoise, self_condition=self_condition)
                else:
                    term = on_latent(functions[kind])
                terms.append((wish.weight, term))
            return _sum_by_row(terms)

        window = {"min_t": min_t, "max_t": max_t, "anchor": anchor}
        guides = []
        for (method, through), kinds in _ways(wanted.wishes, options, draws_noise).items():
            if method == "gradient":
                guide = gradient_guidance(objective(kinds, through), scale=options.scale, **window)
            else:
                guide = adagrad_guidance(
                    objective(kinds, through),
                    learning_rate=options.learning_rate,
                    num_updates=options.updates,
                    fluency_weight=options.fluency_weight,
                    reset=options.reset,
                    noise_scale=options.noise,
                    **window,
                )
            # Every kind that any target asks for is part of every row. One that asks for none of
            # these is not even pulled to the mean, or its text would depend on the others.
            asked = sum((wanted.wishes[kind].weight for kind in kinds), jnp.zeros(()))
            guides.append(for_rows(guide, asked > 0))
        return in_turn(*guides)

    return guidance


def _check_without_noise(options: GuidanceConfig) -> None:
    """Raise UserError for what acts in proportion to the noise of a step, where there is none."""
    choose = "choose --sampler ddpm, or ddim with --eta 1"
    if options.method == "gradient":
        raise UserError(
            'guidance.method "gradient" shifts by the noise of a step; this sampler draws none: '
            f'{choose}, or the method "adagrad" or "auto"'
        )
    if options.noise > 0:
        raise UserError(
            f"guidance.noise {options.noise} is in units of a step's noise; this sampler draws "
            f"none: {choose}"
        )


def _ways(
    kinds: Iterable[str], options: GuidanceConfig, draws_noise: bool
) -> dict[tuple[str, str], list[str]]:
    """Return (method, through) -> the kinds of control that go that way, in the order they act."""
    ways: dict[tuple[str, str], list[str]] = {}
    for kind in sorted(kinds, key=lambda kind: kind not in _THROUGH_DENOISER):
        way = (options.method, options.through)
        if options.method == "auto":
            through_denoiser = kind in _THROUGH_DENOISER
            # Dhariwal and Nichol shift by the step's variance: none, none.
            method = "gradient" if through_denoiser and draws_noise else "adagrad"
            way = (method, "denoiser" if through_denoiser else "classifier")
        ways.setdefault(way, []).append(kind)
    return ways


def _word_objective(kind: str, posterior: TokenPosterior, targets: jax.Array) -> Objective:
    if kind == "keywords":
        objective = keywords(posterior, targets)
    else:
        objective = fixed_words(posterior, jnp.maximum(targets, 0), targets != FREE)
    count = _count(targets)
    return lambda x, info, output: objective(x, info, output) / count


def _mean(log_prob: LogProbFn, targets: jax.Array) -> LogProbFn:
    count = _count(targets)
    return lambda x, time: log_prob(x, time) / count


def _count(targets: jax.Array) -> jax.Array:
    """Return float32 [B], how many labels each row wants, at least 1."""
    wanted = jnp.asarray(targets) != FREE
    return jnp.maximum(jnp.sum(wanted, axis=tuple(range(1, wanted.ndim))), 1).astype(jnp.float32)


def _sum_by_row(terms: Sequence[tuple[jax.Array, Objective]]) -> Objective:
    """Return the sum of objectives, each weighted row by row with a weight [B]."""

    def objective(x: jax.Array, info: StepInfo, output: StepOutput) -> jax.Array:
        total = jnp.zeros(x.shape[:1])
        for weight, term in terms:
            total = total + weight * term(x, info, output)
        return total

    return objective
