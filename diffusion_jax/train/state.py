"""Everything that training changes: one immutable record, and how a run begins."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from diffusion_jax.errors import UserError
from diffusion_jax.train.optimizer import Optimizer
from diffusion_jax.types import Params


@flax.struct.dataclass
class TrainState:
    """What a resumed run needs besides its configuration.

    No random key and no data position is stored: both are functions of ``step`` (see
    ``keys.stream`` and ``text.loader``).

    Attributes:
        step: int32 scalar, the number of updates made.
        params: the parameters being trained, float32.
        ema: exponential moving averages of the parameters, keyed by ``ema_name(rate)``.
        opt_state: the optimiser's state.
        timestep_state: the timestep sampler's state (the loss history of loss-aware sampling).
    """

    step: jax.Array
    params: Params
    ema: dict[str, Params]
    opt_state: Any
    timestep_state: Any


def ema_name(rate: float) -> str:
    """Return the key under which the average of one rate is kept, e.g. ``"0.9999"``."""
    return repr(float(rate))


def init_state(
    params: Params,
    optimizer: Optimizer,
    *,
    ema_rates: Sequence[float] = (0.9999,),
    timestep_state: Any = (),
) -> TrainState:
    """Start a run: step 0, averages equal to the parameters.

    Args:
        params: initial parameters.
        optimizer: whose state is created.
        ema_rates: decay rates of the averages, each in [0, 1); may be empty.
        timestep_state: ``TimestepSampler.init()``.

    Returns:
        A state whose arrays share no buffer, so that it can be donated.

    Raises:
        UserError: when a rate is out of range or named twice.
    """
    for rate in ema_rates:
        if not 0.0 <= rate < 1.0:
            raise UserError(f"EMA rate {rate} is out of range; it must be in [0, 1)")
    if len(set(ema_rates)) != len(ema_rates):
        raise UserError(f"ema_rates is {tuple(ema_rates)}; name each rate once")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema={ema_name(rate): jax.tree.map(jnp.copy, params) for rate in ema_rates},
        opt_state=optimizer.init(params),
        timestep_state=timestep_state,
    )


def update_ema(ema: Mapping[str, Params], params: Params) -> dict[str, Params]:
    """Move every average towards ``params``: ``ema = rate * ema + (1 - rate) * param``.

    There is no bias correction, as in the published code; an average starts as a copy of the
    initial parameters.
    """

    def move(rate: float, average: Params) -> Params:
        return jax.tree.map(lambda old, new: rate * old + (1.0 - rate) * new, average, params)

    return {name: move(float(name), average) for name, average in ema.items()}
