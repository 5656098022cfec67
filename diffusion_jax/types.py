"""The seams of the program: what a denoiser, a score and a guide look like to each other.

Everything numeric in this package speaks through these few shapes, so that a sampler never sees a
network, a loss never sees a configuration, and a test can stand in for either.

Dimensions: B batch, L length, E embedding width, V vocabulary, T training timesteps, S sampling
steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax

Params = Any
"""A nested dict of parameter arrays (a pytree)."""

GridField = Any
"""A NumPy array [S] in a grid on the host; a jax scalar in the step that a scan runs."""


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
    """Score latents for guidance: one log-probability (nats) per example, differentiable in x."""

    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """Map ``x`` [B, L, E] and time labels [B] to log-probabilities [B]."""
        ...


class RoundingHead(NamedTuple):
    """What turns vectors into words: logits are ``x @ weight.T + bias``.

    ``weight`` [V, E] is the embedding table itself (the two are tied); ``bias`` is [V].
    """

    weight: jax.Array
    bias: jax.Array


class StepInfo(NamedTuple):
    """One step of a reverse chain, from index ``t`` to ``t_prev``.

    A step grid holds every field as an array [S]; a scan hands the sampler one scalar of each. The
    differences ``1 - ...`` are fields of their own because float32 cannot form them again from
    ``alpha_bar`` where that is close to 1.

    Attributes:
        index: int32, position in the chain, 0 first.
        t: int32 schedule index of the state before the step (0 = least noisy); the nearest one
            where a grid visits times between the indices.
        t_prev: int32 schedule index of the state after it; -1 means clean data.
        alpha_bar: float32, cumulative product of alphas at ``t``.
        alpha_bar_prev: float32, the same at ``t_prev`` (1 at -1).
        one_minus_alpha_bar: float32, ``1 - alpha_bar``.
        one_minus_alpha_bar_prev: float32, ``1 - alpha_bar_prev``.
        beta: float32, ``1 - alpha_bar / alpha_bar_prev``, the beta of this one jump.
        time: float32, what the network is told at ``t``.
        time_prev: float32, the label of ``t_prev`` (that of index 0 where ``t_prev`` is -1).
        history: int32, how many estimates of earlier steps a solver of higher order may use here.
    """

    index: GridField
    t: GridField
    t_prev: GridField
    alpha_bar: GridField
    alpha_bar_prev: GridField
    one_minus_alpha_bar: GridField
    one_minus_alpha_bar_prev: GridField
    beta: GridField
    time: GridField
    time_prev: GridField
    history: GridField


class StepOutput(NamedTuple):
    """What a sampler reports about one step, for guides and for people.

    Attributes:
        pred_x_start: float32 [B, L, E], the (clamped) estimate that the step used.
        mean: float32 [B, L, E], the mean of the new state.
        sigma: float32 scalar, the standard deviation of the noise that the step added.
    """

    pred_x_start: jax.Array
    mean: jax.Array
    sigma: jax.Array


class XStartTransform(Protocol):
    """Change the estimate of ``x_start`` before a sampler uses it (clamping and the like)."""

    def __call__(self, pred_x_start: jax.Array, info: StepInfo) -> jax.Array:
        """Map [B, L, E] to [B, L, E]."""
        ...


class Guidance(NamedTuple):
    """A guide moves the state after every sampler step, before anchored positions are restored.

    Attributes:
        init: initial latent [B, L, E] -> guide state (any pytree, () where there is none).
        apply: (keys [B] of this step, x [B, L, E], state, info, output) -> (x, state), where ``x``
            is the new state of the chain, at noise level ``info.t_prev``.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[
        [jax.Array, jax.Array, Any, StepInfo, StepOutput],
        tuple[jax.Array, Any],
    ]


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
