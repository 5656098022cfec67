"""The loss of a noise-aware classifier: noise given embeddings, look, then cross-entropy."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.forward import q_sample
from diffusion_jax.models.base import Model, bind, own_estimate
from diffusion_jax.models.classifier import Classifier
from diffusion_jax.schedules import NoiseSchedule
from diffusion_jax.train.step import FROZEN, LossFn
from diffusion_jax.types import Params

FREE = -1

Views = Callable[[jax.Array, Params, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""(key, frozen, input_ids int32 [B, L], t int32 [B], clean bool [B]) -> what a classifier is shown:
latents [B, L, E] and time labels [B]. ``frozen`` are parameters that are not learned. Where
``clean``, embeddings without any noise, with the time label of t = 0, as the last state of a chain
has it."""


class ClassifierTerms(NamedTuple):
    """Per-example results, all float32 [B].

    Attributes:
        nll: mean cross-entropy (nats) of the labels of a row.
        accuracy: share of its labels that are guessed right.
    """

    nll: jax.Array
    accuracy: jax.Array

    def total(self) -> jax.Array:
        """Return what training minimises."""
        return self.nll


def label_scores(
    logits: jax.Array, targets: jax.Array, slices: Sequence[tuple[int, int]] | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Score every label of a batch.

    Args:
        logits: [B, ..., C].
        targets: int32 [B, ...] ([B, F] where there are slices), -1 where there is no label.
        slices: (first, one past the last) logit of each field, of the task "attribute".

    Returns:
        Cross-entropy, guessed class and whether there is a label, all in the shape of targets.
    """
    if slices is not None:
        parts = [
            label_scores(logits[:, start:stop], targets[:, number], None)
            for number, (start, stop) in enumerate(slices)
        ]
        nll, guess, given = (jnp.stack(part, axis=1) for part in zip(*parts))
        return nll, guess, given
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    picked = jnp.take_along_axis(log_probs, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    return -picked, jnp.argmax(logits, axis=-1), targets != FREE


def row_means(values: jax.Array, given: jax.Array) -> jax.Array:
    """Return the mean over the given labels of each row, [B]."""
    axes = tuple(range(1, values.ndim))
    total = jnp.sum(jnp.where(given, values, 0.0), axis=axes)
    return total / jnp.maximum(jnp.sum(given, axis=axes), 1)


def noisy_states(schedule: NoiseSchedule) -> Views:
    """Show what the forward process leaves of the embeddings (Li et al. 2022, section 5).

    ``frozen`` holds the table [V, E] as ``"embedding"``.
    """
    return _views(
        schedule,
        embed=lambda frozen, input_ids: frozen["embedding"][input_ids],
        look=lambda frozen, x_t, time: x_t,
    )


def denoiser_estimates(model: Model, schedule: NoiseSchedule, *, self_condition: bool) -> Views:
    """Show what the denoiser makes of a noisy state: its estimate of ``x_start``, and the time.

    An estimate is a mean over what the text may be, so a classifier that was trained on words alone
    misreads it; this one learns p(c | estimate, t), with all that the denoiser knows of the text.

    Args:
        model: the denoiser; ``frozen`` are its parameters.
        schedule: of its run.
        self_condition: give the network its own estimate, as a chain does after the first step.
    """

    def look(frozen: Params, x_t: jax.Array, time: jax.Array) -> jax.Array:
        return own_estimate(bind(model, frozen), x_t, time, self_condition=self_condition)

    return _views(schedule, embed=model.embed, look=look)


def _views(
    schedule: NoiseSchedule,
    embed: Callable[[Params, jax.Array], jax.Array],
    look: Callable[[Params, jax.Array, jax.Array], jax.Array],
) -> Views:
    """Show clean embeddings as they are, and what ``look`` makes of noised ones."""
    labels = jnp.asarray(schedule.model_timesteps, jnp.float32)

    def views(
        key: jax.Array, frozen: Params, input_ids: jax.Array, t: jax.Array, clean: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        x_start = embed(frozen, input_ids)
        seen = look(frozen, q_sample(key, schedule, x_start, t), labels[t])
        x = jnp.where(clean[:, None, None], x_start, seen)
        return x, jnp.where(clean, labels[0], labels[t])

    return views


def make_classifier_loss(
    classifier: Classifier,
    views: Views,
    *,
    slices: Sequence[tuple[int, int]] | None = None,
    clean_rate: float = 0.0,
) -> LossFn:
    """Return the loss of a batch with ``input_ids`` [B, L] and ``targets`` (see ``label_scores``).

    What ``views`` needs besides is in the batch as ``FROZEN``.

    Args:
        classifier: the network.
        views: what it is shown of a text at a random t.
        slices: of the fields, for the task "attribute".
        clean_rate: share of examples without noise.
    """

    def loss(params: Params, key: jax.Array, batch: Any, t: jax.Array, dropout_key: Any) -> Any:
        noise_key, clean_key = jax.random.split(key)
        clean = jax.random.bernoulli(clean_key, clean_rate, t.shape)
        x, time = views(noise_key, batch[FROZEN], batch["input_ids"], t, clean)
        logits = classifier.logits(params, x, time, dropout_key=dropout_key)
        nll, guess, given = label_scores(logits, batch["targets"], slices)
        right = (guess == batch["targets"]).astype(jnp.float32)
        return ClassifierTerms(row_means(nll, given), row_means(right, given))

    return loss
