"""Properties of the forward process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.forward import (
    eps_from_x_start,
    q_mean_variance,
    q_posterior,
    q_sample,
    q_sample_soft_absorbing,
    sample_absorb_mask,
    sample_x_start,
    x_start_from_eps,
)
from diffusion_jax.schedules import make_schedule, respace, schedule_from_betas

SCHEDULE = make_schedule("sqrt", 200)
SHAPE = (4, 6, 8)


def latents(seed: int = 0, count: int = 2, shape=SHAPE):
    return [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(seed), count)]


def timesteps(*t: int) -> jax.Array:
    return jnp.array(t, jnp.int32)


def test_sample_mean_and_variance(key):
    """Thresholds are 5 standard errors; the seed is fixed."""
    count = 200_000
    x_start = jnp.full((1, count, 1), 2.0)
    t = timesteps(120)
    x_t = q_sample(key, SCHEDULE, x_start, t)
    mean = 2.0 * float(SCHEDULE.sqrt_alphas_cumprod[120])
    variance = float(SCHEDULE.one_minus_alphas_cumprod[120])
    assert abs(float(x_t.mean()) - mean) < 5 * np.sqrt(variance / count)
    assert abs(float(x_t.var()) / variance - 1) < 5 * np.sqrt(2 / count)
    q_mean, q_variance = q_mean_variance(SCHEDULE, x_start, t)
    np.testing.assert_allclose(q_mean[0, 0, 0], mean, rtol=1e-6)
    np.testing.assert_allclose(q_variance[0, 0, 0], variance, rtol=1e-6)


def test_x_start_is_drawn_around_the_embeddings(key):
    draws = sample_x_start(key, SCHEDULE, jnp.zeros((1, 100_000, 1)))
    assert abs(float(draws.std()) / float(SCHEDULE.sqrt_one_minus_alphas_cumprod[0]) - 1) < 0.012


def test_sigma_0_is_that_of_the_active_process():
    respaced = respace(SCHEDULE, [9, 50, 199])
    x, noise = latents()
    got = sample_x_start(None, respaced, x, noise=noise) - x
    np.testing.assert_allclose(got, SCHEDULE.sqrt_one_minus_alphas_cumprod[9] * noise, atol=1e-6)


def test_positions_outside_the_noise_mask_keep_every_bit(key):
    (x_start,) = latents(count=1)
    noise_mask = jnp.arange(SHAPE[1])[None, :] >= jnp.array([[0], [2], [5], [6]])
    keys = jax.random.split(key, 2)
    t = timesteps(0, 50, 150, 199)
    mean_embed = jnp.ones(SHAPE[-1])
    absorb = jnp.ones(SHAPE[:2], bool)
    for x_t in (
        q_sample(keys[0], SCHEDULE, x_start, t, noise_mask),
        q_sample_soft_absorbing(keys[1], SCHEDULE, x_start, t, noise_mask, mean_embed, absorb),
    ):
        kept = ~np.asarray(noise_mask)
        np.testing.assert_array_equal(np.asarray(x_t)[kept], np.asarray(x_start)[kept])
        assert not np.any(np.asarray(x_t)[~kept] == np.asarray(x_start)[~kept])


def test_a_full_mask_is_no_mask():
    x_start, noise = latents()
    t = timesteps(0, 1, 100, 199)
    everything = jnp.ones(SHAPE[:2], bool)
    np.testing.assert_array_equal(
        q_sample(None, SCHEDULE, x_start, t, everything, noise=noise),
        q_sample(None, SCHEDULE, x_start, t, noise=noise),
    )


def test_soft_absorbing_shifts_the_process():
    x_start, noise = latents()
    t = timesteps(0, 60, 150, 199)
    everything = jnp.ones(SHAPE[:2], bool)
    mean_embed = jnp.linspace(-1.0, 1.0, SHAPE[-1])
    centre = mean_embed[None, None, :]
    x_t = q_sample_soft_absorbing(None, SCHEDULE, x_start, t, everything, mean_embed, noise=noise)
    plain = q_sample(None, SCHEDULE, x_start - centre, t, noise=noise)
    np.testing.assert_allclose(x_t - centre, plain, atol=1e-6)
    absorbed = q_sample_soft_absorbing(
        None, SCHEDULE, x_start, t, everything, mean_embed, everything, noise=noise
    )
    np.testing.assert_array_equal(absorbed, jnp.broadcast_to(centre, SHAPE))


def test_absorb_mask_rate(key):
    t = timesteps(5, 199)
    mask = sample_absorb_mask(key, SCHEDULE, t, 50_000, 0.5)
    assert mask.shape == (2, 50_000)
    want = 0.5 * SCHEDULE.sqrt_one_minus_alphas_cumprod[[5, 199]]
    np.testing.assert_allclose(mask.mean(axis=1), want, atol=5 * 0.5 / np.sqrt(50_000))


@pytest.mark.parametrize("name", ["sqrt", "cosine", "trunc_lin", "warmup-decay"])
def test_posterior_of_one_step_is_the_table(name):
    schedule = make_schedule(name, 2000)
    t = jnp.arange(2000, dtype=jnp.int32)
    ones, zeros = jnp.ones((2000, 1, 1)), jnp.zeros((2000, 1, 1))
    coef1, variance = q_posterior(schedule, ones, zeros, t, t - 1)
    coef2, _ = q_posterior(schedule, zeros, ones, t, t - 1)
    # One float32 logarithm per entry would leave 1e-4 here.
    np.testing.assert_allclose(coef1.ravel(), schedule.posterior_mean_coef1, rtol=2e-6)
    np.testing.assert_allclose(coef2.ravel(), schedule.posterior_mean_coef2, rtol=2e-6)
    np.testing.assert_allclose(variance.ravel(), schedule.posterior_variance, rtol=2e-6)


def test_posterior_of_a_jump_is_that_of_the_respaced_schedule():
    kept = [3, 40, 41, 120, 199]
    respaced = respace(SCHEDULE, kept)
    x_start, x_t = latents(shape=(5, 2, 3))
    t = jnp.array(kept, jnp.int32)
    t_prev = jnp.array([-1, *kept[:-1]], jnp.int32)
    index = jnp.arange(5, dtype=jnp.int32)
    got = q_posterior(SCHEDULE, x_start, x_t, t, t_prev)
    want = q_posterior(respaced, x_start, x_t, index, index - 1)
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_posterior_of_the_clean_latent_is_x_start():
    x_start, x_t = latents()
    clean = jnp.full((4,), -1, jnp.int32)
    mean, variance = q_posterior(SCHEDULE, x_start, x_t, timesteps(0, 10, 100, 199), clean)
    np.testing.assert_array_equal(mean, x_start)
    np.testing.assert_array_equal(variance, jnp.zeros((4, 1, 1)))


def test_posterior_undoes_the_forward_process():
    """Averaged over q(x_t | x_start), the posterior is q(x_prev | x_start)."""
    t, t_prev = timesteps(1, 60, 150, 199), timesteps(0, 20, 149, 7)
    (x_start,) = latents(count=1)
    mean_t, variance_t = q_mean_variance(SCHEDULE, x_start, t)
    mean, variance = q_posterior(SCHEDULE, x_start, mean_t, t, t_prev)
    shifted, _ = q_posterior(SCHEDULE, x_start, mean_t + 1.0, t, t_prev)
    slope = (shifted - mean)[:, :1, :1]
    want_mean, want_variance = q_mean_variance(SCHEDULE, x_start, t_prev)
    np.testing.assert_allclose(mean, want_mean, atol=2e-6)
    np.testing.assert_allclose(slope**2 * variance_t + variance, want_variance, atol=2e-6)


def test_eps_and_x_start_are_two_views_of_x_t():
    x_start, noise = latents()
    t = timesteps(0, 30, 150, 190)
    x_t = q_sample(None, SCHEDULE, x_start, t, noise=noise)
    np.testing.assert_allclose(eps_from_x_start(SCHEDULE, x_t, t, x_start), noise, atol=1e-5)
    np.testing.assert_allclose(x_start_from_eps(SCHEDULE, x_t, t, noise), x_start, atol=1e-4)


def test_a_schedule_per_position():
    betas = np.stack([make_schedule(n, 50).betas for n in ("sqrt", "cosine")], axis=1)
    schedule = schedule_from_betas(betas, np.arange(50.0))
    x_start, noise, x_t = latents(count=3, shape=(3, 2, 4))
    t = timesteps(0, 20, 49)
    sampled = q_sample(None, schedule, x_start, t, noise=noise)
    mean, _ = q_posterior(schedule, x_start, x_t, t, t - 1)
    for position, name in enumerate(("sqrt", "cosine")):
        own = make_schedule(name, 50)
        here = slice(position, position + 1)
        want = q_sample(None, own, x_start[:, here], t, noise=noise[:, here])
        np.testing.assert_allclose(sampled[:, here], want, atol=1e-6)
        want_mean, _ = q_posterior(own, x_start[:, here], x_t[:, here], t, t - 1)
        np.testing.assert_allclose(mean[:, here], want_mean, atol=1e-6)


def test_jit_is_eager():
    x_start, noise, x_t = latents(count=3)
    t, t_prev = timesteps(1, 30, 150, 199), timesteps(0, 29, 3, -1)

    def everything(x_start, noise, x_t, t, t_prev):
        return (
            q_sample(None, SCHEDULE, x_start, t, noise=noise),
            *q_posterior(SCHEDULE, x_start, x_t, t, t_prev),
            eps_from_x_start(SCHEDULE, x_t, t, x_start),
        )

    eager = everything(x_start, noise, x_t, t, t_prev)
    for got, want in zip(jax.jit(everything)(x_start, noise, x_t, t, t_prev), eager):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_key_or_noise_but_not_both(key):
    (x_start,) = latents(count=1)
    t = timesteps(0, 1, 2, 3)
    for key_given, noise in ((key, x_start), (None, None)):
        with pytest.raises(ValueError, match="either a key or the noise"):
            q_sample(key_given, SCHEDULE, x_start, t, noise=noise)


def test_shapes_are_checked(key):
    (x_start,) = latents(count=1)
    keys = jax.random.split(key, 2)
    with pytest.raises(ValueError, match=r"t has shape \(3,\); expected \(4\)"):
        q_sample(keys[0], SCHEDULE, x_start, timesteps(0, 1, 2))
    with pytest.raises(ValueError, match="noise_mask has shape"):
        q_sample(keys[1], SCHEDULE, x_start, timesteps(0, 1, 2, 3), jnp.ones((4, 5), bool))
