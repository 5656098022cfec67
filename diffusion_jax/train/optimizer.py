"""The optimiser: AdamW with a decaying learning rate, warm-up and clipping on request."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from diffusion_jax.errors import UserError
from diffusion_jax.types import Params

Decay = Literal["linear", "cosine", "constant"]


class Optimizer(NamedTuple):
    """An optax transformation together with its learning rate.

    Attributes:
        init: parameters -> optimiser state.
        update: (gradients, state, parameters) -> (updates, state), as in optax.
        learning_rate: number of updates already made (int32 scalar) -> rate of the next one.
    """

    init: Callable[[Params], Any]
    update: Callable[..., tuple[Any, Any]]
    learning_rate: optax.Schedule


def learning_rate_schedule(
    peak: float, total_steps: int, *, warmup_steps: int = 0, schedule: Decay = "linear"
) -> optax.Schedule:
    """Build ``step -> learning rate``, where step counts the updates already made.

    Without warm-up the linear schedule is the published one, ``peak * (1 - step / total_steps)``:
    the first update takes the full rate. With warm-up the rate first climbs as
    ``(step + 1) / warmup_steps``, then decays over the remaining steps.

    Args:
        peak: the largest rate.
        total_steps: length of the run; the rate stays at its end value afterwards.
        warmup_steps: updates before the peak, in [0, total_steps).
        schedule: the shape of the decay: to zero along a line or half a cosine, or none.

    Returns:
        A traceable function, int32 scalar -> float32 scalar.

    Raises:
        UserError: when a value is out of range.
    """
    if not (math.isfinite(peak) and peak >= 0):
        raise UserError(f"learning_rate is {peak}; it must be a finite number, 0 or larger")
    if total_steps < 1:
        raise UserError(f"total_steps is {total_steps}; it must be at least 1")
    if not 0 <= warmup_steps < total_steps:
        raise UserError(
            f"warmup_steps is {warmup_steps}; it must be at least 0 and less than "
            f"total_steps ({total_steps})"
        )
    if schedule not in get_args(Decay):
        raise UserError(
            f"learning-rate schedule {schedule!r} is unknown; choose one of {get_args(Decay)}"
        )

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((step - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
        factor = {
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "constant": jnp.ones_like(progress),
        }[schedule]
        warmup = jnp.minimum((step + 1.0) / max(warmup_steps, 1), 1.0)
        return peak * warmup * factor

    return rate


def make_optimizer(
    learning_rate: float,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    schedule: Decay = "linear",
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    clip_norm: float | None = None,
    rate_multipliers: Params | None = None,
) -> Optimizer:
    """Build AdamW (Loshchilov and Hutter 2019) as both published systems train with it.

    Args:
        learning_rate: the peak rate.
        total_steps: length of the run in updates.
        warmup_steps: updates of linear warm-up.
        schedule: ``"linear"`` (published), ``"cosine"`` or ``"constant"``.
        weight_decay: decoupled decay, multiplied by the rate.
        betas: decay of the first and second moment.
        eps: added to the root of the second moment.
        clip_norm: largest global gradient norm; None leaves gradients alone.
        rate_multipliers: a factor of the rate (and so of the decay) for every parameter, a pytree
            of floats like the parameters; None for none.

    Returns:
        The optimiser with its learning rate.

    Raises:
        UserError: when a value is out of range.
    """
    rate = learning_rate_schedule(
        learning_rate, total_steps, warmup_steps=warmup_steps, schedule=schedule
    )
    if not all(0.0 <= beta < 1.0 for beta in betas) or len(betas) != 2:
        raise UserError(f"betas is {betas}; give two numbers in [0, 1)")
    if not eps > 0.0:
        raise UserError(f"eps is {eps}; it must be larger than 0")
    if not weight_decay >= 0.0:
        raise UserError(f"weight_decay is {weight_decay}; it must be 0 or larger")
    if clip_norm is not None and not clip_norm > 0.0:
        raise UserError(f"clip_norm is {clip_norm}; give a number larger than 0, or None for none")

    adamw = optax.adamw(rate, b1=betas[0], b2=betas[1], eps=eps, weight_decay=weight_decay)
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    transforms = [clip, adamw]
    if rate_multipliers is not None:
        transforms.append(_scale_each(rate_multipliers))
    transform = optax.chain(*transforms)
    return Optimizer(transform.init, transform.update, rate)


def _scale_each(factors: Params) -> optax.GradientTransformation:
    """Multiply every update by its own factor."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda update, factor: update * factor, updates, factors)
    )
