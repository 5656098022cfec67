"""Reverse processes of DiffuSeq-v2, whose noise gathers around a learned vector mu.

The forward process (Gong et al. 2023, arXiv:2310.05793, section 3.1) is the ordinary one for
``x - mu``, see ``forward.q_sample_soft_absorbing``. So every sampler becomes one of it by walking
in ``x - mu``: ``around``. The mean of DDPM's step is then

    coef1 pred_x_start + coef2 x_t + (1 - coef1 - coef2) mu

The published program leaves the last term out, which loses mu almost entirely in the first step;
``diffuseq_v2_ancestral`` and ``absorb_after_step`` repeat it, to reproduce published numbers.

That training replaces whole tokens by mu at random asks for nothing here: at every t the network
has also seen states without any, and such is the state of the chain.
"""

import jax
import jax.numpy as jnp

from diffusion_jax.errors import UserError
from diffusion_jax.samplers.base import Sampler, SamplerState
from diffusion_jax.samplers.ddpm import Variance, ddpm
from diffusion_jax.types import Guidance, StepInfo, StepOutput, check_shape


def around(sampler: Sampler, mean_embed: jax.Array) -> Sampler:
    """Return the sampler of the process whose noise gathers around ``mean_embed``.

    Args:
        sampler: any sampler of the ordinary process.
        mean_embed: float32 [E]. Chains start from N(mean_embed, I).
    """
    centre = _centre(mean_embed)

    def init(x: jax.Array) -> SamplerState:
        state = sampler.init(x - centre)
        return state._replace(x_t=x)

    def step(
        state: SamplerState, pred_x_start: jax.Array, info: StepInfo, noise: jax.Array | None
    ) -> tuple[SamplerState, StepOutput]:
        centred = state._replace(x_t=state.x_t - centre)
        new_state, output = sampler.step(centred, pred_x_start - centre, info, noise)
        return (
            new_state._replace(x_t=new_state.x_t + centre),
            StepOutput(pred_x_start, output.mean + centre, output.sigma),
        )

    return sampler._replace(init=init, step=step, start_mean=centre)


def diffuseq_v2_ancestral(mean_embed: jax.Array, *, variance: Variance = "fixed_large") -> Sampler:
    """Return the published ancestral sampler, which starts around ``mean_embed`` [E] only."""
    return ddpm(variance=variance)._replace(start_mean=_centre(mean_embed))


def absorb_after_step(
    mean_embed: jax.Array, rate: float, *, masks: jax.Array | None = None
) -> Guidance:
    """Return the published program's discrete noise, as a guide of the driver.

    After every step but the last it replaces each token by ``mean_embed`` with probability
    ``rate * sigma``, where sigma is the standard deviation of the noise that the step added.

    Args:
        mean_embed: float32 [E].
        rate: in [0, 1].
        masks: bool [S, B, L] to use instead of drawing them.

    Raises:
        UserError: a rate out of range.
    """
    if not 0.0 <= rate <= 1.0:
        raise UserError(f"rate={rate} is not allowed; use a share between 0 and 1")

    def draw(keys: jax.Array, x: jax.Array, sigma: jax.Array) -> jax.Array:
        probability = jnp.minimum(rate * sigma, 1.0)
        return jax.vmap(lambda key: jax.random.bernoulli(key, probability, x.shape[1:2]))(keys)

    def apply(
        keys: jax.Array, x: jax.Array, state: tuple, info: StepInfo, output: StepOutput
    ) -> tuple[jax.Array, tuple]:
        mask = draw(keys, x, output.sigma) if masks is None else masks[info.index]
        absorbed = mask[..., None] & (info.t_prev >= 0)
        return jnp.where(absorbed, _centre(mean_embed), x), state

    return Guidance(init=lambda x: (), apply=apply)


def _centre(mean_embed: jax.Array) -> jax.Array:
    check_shape("mean_embed", mean_embed, (None,))
    return mean_embed[None, None, :]
