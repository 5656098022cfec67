"""The model's own score of a text."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.control.score import denoising_score
from diffusion_jax.models.base import Model
from diffusion_jax.schedules import make_schedule
from diffusion_jax.types import RoundingHead

TABLE = 3.0 * jnp.eye(4)
IDS = jnp.array([[0, 1, 2], [3, 3, 1]])
UNUSED: Any = None


def toy(denoise):
    return Model(
        UNUSED,
        lambda params, ids: TABLE[ids],
        lambda params: RoundingHead(TABLE, jnp.zeros(4)),
        denoise,
        UNUSED,
    )


def score(denoise, **options):
    schedule = make_schedule("sqrt", 64)
    return denoising_score(toy(denoise), {}, schedule, IDS, **options)


def test_it_is_the_mean_over_the_noise_of_the_log_probability_of_all_words():
    """A network that answers with its time label, at evenly spaced timesteps."""
    times = make_schedule("sqrt", 64).model_timesteps[1::2]

    def denoise(params, x_t, time, self_cond=None, *, dropout_key=None):
        return 0.001 * time[:, None, None] * TABLE[IDS]

    logits = 0.001 * times[:, None] * 9.0 * np.eye(4)[0]
    expected = 3 * np.mean(logits[:, 0] - np.log(np.sum(np.exp(logits), axis=1)))
    np.testing.assert_allclose(score(denoise, num_timesteps=32), [expected] * 2, rtol=1e-5)


def test_a_self_conditioned_network_is_given_its_own_estimate():
    def denoise(params, x_t, time, self_cond=None, *, dropout_key=None):
        return jnp.full_like(x_t, 0.5) if self_cond is None else 2 * self_cond * TABLE[IDS]

    def known(params, x_t, time, self_cond=None, *, dropout_key=None):
        return TABLE[IDS]

    np.testing.assert_allclose(score(denoise, self_condition=True), score(known), rtol=1e-6)
    blank = score(denoise)
    np.testing.assert_allclose(blank, jnp.full(2, -3 * jnp.log(4.0)), rtol=1e-5)
    assert isinstance(blank, jax.Array)
