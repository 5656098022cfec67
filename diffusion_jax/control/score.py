"""How well a text fits the model itself: no classifier, no other model."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.forward import q_sample
from diffusion_jax.keys import stream
from diffusion_jax.models.base import Model
from diffusion_jax.rounding import token_nll
from diffusion_jax.schedules import NoiseSchedule
from diffusion_jax.types import Params

NUM_TIMESTEPS = 32
# A score is an average over levels of noise, most of which hardly tell texts apart. Of the texts of
# all layouts, a softmax of 1, 2 and 4 times the score (with three draws of noise) gave 95, 98 and
# 98% to sentences of the language (60 templates of the grammar; 23% of their texts were).
_SHARPNESS = 4.0


def denoising_score(
    model: Model,
    params: Params,
    schedule: NoiseSchedule,
    input_ids: jax.Array,
    *,
    self_condition: bool = False,
    num_timesteps: int = NUM_TIMESTEPS,
) -> jax.Array:
    """Return the log-probability of a row's words at the estimates from its noised self, [B].

    The sum over all positions (padding included, so that texts of different lengths compare) of
    log p(word | estimate of x_start), averaged over evenly spaced timesteps. It is a pseudo
    log-likelihood in nats, not a bound: it ranks texts. All rows see the same noise, so that their
    differences are differences of text.

    Args:
        model: the denoiser.
        params: its parameters.
        schedule: the noise schedule of its chains.
        input_ids: int32 [B, L].
        self_condition: give the network its own first estimate, as chains do.
        num_timesteps: how many levels of noise.
    """
    head = model.head(params)
    x_start = model.embed(params, input_ids)
    total = schedule.num_timesteps
    steps = (jnp.arange(num_timesteps) * total + total // 2) // num_timesteps
    times = jnp.asarray(schedule.model_timesteps, jnp.float32)

    def one_level(t: jax.Array) -> jax.Array:
        noise = jax.random.normal(stream(jax.random.key(0), "score", t), x_start.shape[1:])
        rows = jnp.full(x_start.shape[:1], t)
        noise = jnp.broadcast_to(noise, x_start.shape)
        x_t = q_sample(None, schedule, x_start, rows, noise=noise)
        # The head reads words off the output itself, whatever is read off it as x_start.
        output = model.denoise(params, x_t, times[rows])
        if self_condition:
            output = model.denoise(params, x_t, times[rows], model.read(params, output))
        return jnp.sum(token_nll(head, output, input_ids), axis=-1)

    return -jnp.mean(jax.lax.map(one_level, steps), axis=0)


def layout_shares(scores: Sequence[float], count: int) -> list[int]:
    """Return how many of ``count`` texts each layout gets: as softmax says, by largest remainder.

    Args:
        scores: the best ``denoising_score`` of each layout.
        count: texts in all.
    """
    weights = np.exp(_SHARPNESS * (np.asarray(scores) - np.max(scores)))
    exact = count * weights / weights.sum()
    shares = np.floor(exact).astype(int)
    order = np.argsort(shares - exact, kind="stable")
    shares[order[: count - shares.sum()]] += 1
    return shares.tolist()
