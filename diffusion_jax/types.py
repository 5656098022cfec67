"""The seams of the program: what a denoiser, a score and a guide look like to each other.

Everything numeric in this package speaks through these few shapes, so that a sampler never sees a
network, a loss never sees a configuration, and a test can stand in for either.

Dimensions: B batch, L length, E embedding width, V vocabulary, T training timesteps, S sampling steps.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax

Params = Any
"""A nested dict of parameter arrays (a pytree)."""


class DenoiseFn(Protocol):
    """Predict ``x_start`` from a noisy latent: the central seam.

    ``x_t`` is float32 [B, L, E]; ``time`` is float32 [B], the label the network was trained with
    (``NoiseSchedule.model_timesteps[t]``, in [0, 1000)); ``self_cond`` is the previous estimate of
    ``x_start`` [B, L, E] or None. Returns float32 [B, L, E].
    """

    def __call__(
        self, x_t: jax.Array, time: jax.Array, self_cond: jax.Array | None = None
    ) -> jax.Array:
        """Return the estimate of ``x_start``."""
        ...


class LogProbFn(Protocol):
    """Score latents for guidance: one log-probability (nats) per example, differentiable in ``x``."""

    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """Map ``x`` [B, L, E] and time labels [B] to log-probabilities [B]."""
        ...


class RoundingHead(NamedTuple):
    """What turns vectors into words: logits are ``x @ weight.T + bias``.

    ``weight`` [V, E] is the embedding table itself (the two are tied); ``bias`` is [V].
    """

    weight: jax.Array
    bias: jax.Array


def check_shape(name: str, x: jax.Array, shape: Sequence[int | None]) -> None:
    """Raise ValueError unless ``x`` has ``shape``; None matches any size.

    Runs while tracing, so it costs nothing in compiled code.
    """
    actual = tuple(x.shape)
    matches = len(actual) == len(shape) and all(
        want is None or want == have for want, have in zip(shape, actual)
    )
    if not matches:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {actual}; expected ({wanted})")
