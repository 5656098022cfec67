"""Arrays become one guide: the composition of controls (the arrays are those of ``wishes``)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

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
from diffusion_jax.control.wishes import Wish
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
from diffusion_jax.text.labels import FREE
from diffusion_jax.types import DenoiseFn, Guidance, LogProbFn, Params, StepInfo, StepOutput

OWN = "own"
"""The kind of control that is a user's own log-probability."""

# What "auto" does not steer at the noisy state: what a text says is told late, and by few words.
# Of what a user asks nothing is known but that it is said of texts without noise.
_LATE = ("attribute", "keywords", OWN)
# In the order in which they act, whatever a batch asks for, so that a row does not depend on the
# others: ways through the denoiser move the whole estimate, so they come first.
_WAYS = tuple(
    (method, through)
    for through in ("denoiser", "classifier")
    for method in ("gradient", "adagrad")
)
_LOG_PROBS = {"attribute": attribute_log_prob, "pos": pos_log_prob, "tree": tree_log_prob}


class Wanted(NamedTuple):
    """What a batch is steered toward: an argument of the compiled chain.

    Attributes:
        wishes: kind of control -> Wish.
        classifiers: task -> parameters of its classifier.
    """

    wishes: Mapping[str, Wish]
    classifiers: Mapping[str, Params]


class Own(NamedTuple):
    """A user's own wish, for every text.

    Attributes:
        log_prob: (vectors [B, L, E], time [B]) -> float32 [B], differentiable.
        weight: of it, beside the other controls.
    """

    log_prob: LogProbFn
    weight: float = 1.0


def log_probs(
    wanted: Wanted, classifiers: Mapping[str, TrainedClassifier], own: Own | None = None
) -> dict[str, LogProbFn]:
    """Return kind -> mean log-probability of what is wanted, for the kinds that have one."""
    functions = {} if own is None else {OWN: own.log_prob}
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
    own: Own | None = None,
) -> MakeGuidance:
    """Return what makes the guide of a chain from ``Wanted``, see ``chain.make_chain``.

    Args:
        model: the denoiser.
        classifiers: task -> classifier; their parameters come with ``Wanted``.
        options: how to steer.
        timesteps: T of the schedule.
        self_condition: whether the network is given its own estimate.
        draws_noise: whether the sampler does.
        own: a user's own wish.

    Returns:
        The guide; None where all that is asked is anchored.

    Raises:
        UserError: an option that does nothing with a sampler that draws no noise.
    """
    if not draws_noise:
        _check_without_noise(options)
    reading = frozenset(kind for kind, trained in classifiers.items() if trained.reads_estimates)
    if options.method != "auto" and options.through == "classifier" and reading:
        raise UserError(
            f"the {min(reading)} classifier reads the denoiser's estimates, and "
            f'guidance.method "{options.method}" asks it about noisy states: add '
            "--guidance.through denoiser, or train it with --reads state"
        )
    # Shares of the schedule as indices of its steps.
    min_t = int(np.ceil(options.lowest * timesteps))
    max_t = int(np.ceil(options.highest * timesteps)) - 1

    def guidance(
        params: Params, denoise: DenoiseFn, anchor: Anchor, wanted: Wanted
    ) -> Guidance | None:
        kinds = [*wanted.wishes, OWN] if own is not None else list(wanted.wishes)
        if not kinds:
            return None
        head = model.head(params)
        functions = log_probs(wanted, classifiers, own)
        weights = {kind: wish.weight for kind, wish in wanted.wishes.items()}
        if own is not None:
            weights[OWN] = jnp.full(anchor.noise_mask.shape[:1], own.weight)

        def objective(kinds: Iterable[str], through: str, summed: bool) -> Objective:
            if through == "denoiser":
                posterior = estimate_posterior(head, denoise, self_condition=self_condition)
            else:
                posterior = latent_posterior(head.weight)
            terms = []
            for kind in kinds:
                if kind not in functions:
                    term = _word_objective(kind, posterior, wanted.wishes[kind].targets)
                elif through == "denoiser":
                    term = on_estimate(
                        functions[kind],
                        denoise,
                        self_condition=self_condition,
                        tell_time=kind in reading or kind == OWN,
                    )
                else:
                    term = on_latent(functions[kind])
                counted = summed and kind != OWN
                count = _count(wanted.wishes[kind].targets) if counted else 1.0
                terms.append((weights[kind] * count, term))
            return _sum_by_row(terms)

        window = {"min_t": min_t, "max_t": max_t, "anchor": anchor}
        guides: list[Guidance | None] = []
        guided_by = ways_of(kinds, options, draws_noise, reading)
        for method, through in _WAYS:
            some = guided_by.get((method, through))
            if some is None:
                guides.append(None)
                continue
            if method == "gradient":
                # The posterior's own gradient is that of the sum.
                wanting = objective(some, through, summed=options.method == "auto")
                guide = gradient_guidance(wanting, scale=options.scale, **window)
            else:
                guide = adagrad_guidance(
                    objective(some, through, summed=False),
                    learning_rate=options.learning_rate,
                    num_updates=options.updates,
                    fluency_weight=options.fluency_weight,
                    reset=options.reset,
                    noise_scale=options.noise,
                    **window,
                )
            # Every kind that any target asks for is part of every row. One that asks for none of
            # these is not even pulled to the mean, or its text would depend on the others.
            asked = sum((weights[kind] for kind in some), jnp.zeros(()))
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


def ways_of(
    kinds: Iterable[str], options: GuidanceConfig, draws_noise: bool, reading: frozenset[str]
) -> dict[tuple[str, str], list[str]]:
    """Return (method, through) -> the kinds of control that go that way.

    Args:
        kinds: what is wanted.
        options: how to steer.
        draws_noise: whether the sampler does.
        reading: the kinds whose classifiers read estimates.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for kind in kinds:
        way = (options.method, options.through)
        if options.method == "auto":
            through_denoiser = kind in _LATE or kind in reading
            # Dhariwal and Nichol shift by the step's variance: none, none.
            method = "gradient" if through_denoiser and draws_noise else "adagrad"
            way = (method, "denoiser" if through_denoiser else "classifier")
        found.setdefault(way, []).append(kind)
    return found


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
