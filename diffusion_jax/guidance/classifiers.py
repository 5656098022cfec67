"""Log-probabilities under noise-aware classifiers, as guides climb them (Li et al. 2022, eq. 4).

Targets are integer arrays, one row per example, so that the rows of a batch may want different
things; -1 marks what is free. All return a ``LogProbFn``: nats per example, summed over what is
wanted.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from diffusion_jax.types import LogProbFn, check_shape

FREE = -1

Logits = Callable[[jax.Array, jax.Array], jax.Array]
"""(x [B, L, E], time [B]) -> logits of a classifier whose parameters are fixed."""


def wanted_log_prob(log_probs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return float32 [B]: the sum of the log-probabilities of the labels that are wanted.

    Args:
        log_probs: [B, ..., C].
        targets: int [B, ...], a class or -1.
    """
    check_shape("targets", targets, log_probs.shape[:-1])
    picked = jnp.take_along_axis(log_probs, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    wanted = jnp.where(targets == FREE, 0.0, picked)
    return jnp.sum(wanted, axis=tuple(range(1, wanted.ndim)))


def label_log_prob(logits: Logits, targets: jax.Array) -> LogProbFn:
    """Return the log-probability of tags [B, L] or of charts [B, L, L] of span labels.

    Args:
        logits: of a "pos" or a "tree" classifier.
        targets: int [B, L] or [B, L, L]; -1 is free.
    """

    def log_prob(x: jax.Array, time: jax.Array) -> jax.Array:
        return wanted_log_prob(jax.nn.log_softmax(logits(x, time), axis=-1), targets)

    return log_prob


def attribute_log_prob(
    logits: Logits, slices: Sequence[tuple[int, int]], targets: jax.Array
) -> LogProbFn:
    """Return the log-probability of attributes.

    Args:
        logits: of an "attribute" classifier, the values of all fields one after the other.
        slices: (first, one past the last) logit of each of the F fields.
        targets: int [B, F], the number of a value within its field; -1 is free.
    """

    def log_prob(x: jax.Array, time: jax.Array) -> jax.Array:
        scores = logits(x, time)
        total = jnp.zeros(x.shape[:1])
        for number, (start, stop) in enumerate(slices):
            field = jax.nn.log_softmax(scores[:, start:stop], axis=-1)
            total = total + wanted_log_prob(field, targets[:, number])
        return total

    return log_prob
