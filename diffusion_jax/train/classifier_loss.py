"""The loss of a noise-aware classifier: noise the given embeddings, then cross-entropy."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.forward import q_sample
from diffusion_jax.models.classifier import Classifier
from diffusion_jax.schedules import NoiseSchedule
from diffusion_jax.train.step import LossFn
from diffusion_jax.types import Params

FREE = -1


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


def noised_latents(
    key: jax.Array,
    embedding: np.ndarray,
    schedule: NoiseSchedule,
    input_ids: jax.Array,
    t: jax.Array,
    clean: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return latents [B, L, E] and their time labels [B].

    Args:
        key: of the noise.
        embedding: the frozen table [V, E].
        schedule: of the run.
        input_ids: int32 [B, L].
        t: int32 [B].
        clean: bool [B]: no noise at all, with the time label of t = 0, as the last state of a chain
            has it.
    """
    x_start = jnp.asarray(embedding)[input_ids]
    x_t = q_sample(key, schedule, x_start, t)
    labels = jnp.asarray(schedule.model_timesteps, jnp.float32)
    x = jnp.where(clean[:, None, None], x_start, x_t)
    return x, jnp.where(clean, labels[0], labels[t])


def make_classifier_loss(
    classifier: Classifier,
    embedding: np.ndarray,
    schedule: NoiseSchedule,
    *,
    slices: Sequence[tuple[int, int]] | None = None,
    clean_rate: float = 0.0,
) -> LossFn:
    """Return the loss of a batch with ``input_ids`` [B, L] and ``targets`` (see ``label_scores``).

    Li et al. 2022 train on latents of the forward process at random t, and now and then on clean
    ones.

    Args:
        classifier: the network.
        embedding: the frozen table [V, E].
        schedule: of the run.
        slices: of the fields, for the task "attribute".
        clean_rate: share of examples without noise.
    """

    def loss(params: Params, key: jax.Array, batch: Any, t: jax.Array, dropout_key: Any) -> Any:
        noise_key, clean_key = jax.random.split(key)
        clean = jax.random.bernoulli(clean_key, clean_rate, t.shape)
        x, time = noised_latents(noise_key, embedding, schedule, batch["input_ids"], t, clean)
        logits = classifier.logits(params, x, time, dropout_key=dropout_key)
        nll, guess, given = label_scores(logits, batch["targets"], slices)
        right = (guess == batch["targets"]).astype(jnp.float32)
        return ClassifierTerms(row_means(nll, given), row_means(right, given))

    return loss
