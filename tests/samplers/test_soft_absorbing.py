"""The process of DiffuSeq-v2, whose noise gathers around a learned vector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.forward import q_posterior, q_sample_soft_absorbing
from diffusion_jax.samplers import (
    absorb_after_step,
    around,
    ddim,
    ddpm,
    diffuseq_v2_ancestral,
    dpm_solver,
    sample,
    singlestep_grid,
    step_grid,
)
from diffusion_jax.schedules import make_schedule

SCHEDULE = make_schedule("sqrt", 200)
SHAPE = (2, 3, 4)
MU = jnp.asarray([3.0, -2.0, 0.5, 1.0])


def denoise(x_t, time, self_cond=None):
    return jnp.tanh(x_t + 0.3 * jnp.roll(x_t, 1, axis=1)) * (1 - time[:, None, None] / 2000)


def latents(count):
    return [jax.random.normal(key, SHAPE) for key in jax.random.split(jax.random.key(1), count)]


def jump(t, t_prev):
    return jax.tree.map(lambda field: field[0], step_grid(SCHEDULE, spacing=[t_prev, t]))


@pytest.mark.parametrize(("t", "t_prev"), [(199, 198), (199, 20), (60, 10), (1, 0)])
def test_posterior_has_the_shift(t, t_prev):
    """The mean is coef1 x_start + coef2 x_t + (1 - coef1 - coef2) mu; the variance is unchanged."""
    x_t, x_start = latents(2)
    sampler = around(ddpm(), MU)
    _, output = sampler.step(sampler.init(x_t), x_start, jump(t, t_prev), None)
    ts, ts_prev = jnp.full(2, t), jnp.full(2, t_prev)
    unshifted, variance = q_posterior(SCHEDULE, x_start, x_t, ts, ts_prev)
    ones = jnp.ones(SHAPE)
    coefficients, _ = q_posterior(SCHEDULE, ones, ones, ts, ts_prev)
    wanted = unshifted + (1 - coefficients) * MU[None, None]
    np.testing.assert_allclose(output.mean, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(output.sigma**2, variance[0, 0, 0], rtol=1e-5)
    if t == 199:
        assert np.abs(wanted - unshifted).max() > 0.5


@pytest.mark.parametrize("sampler", [ddim(), dpm_solver(order=1), dpm_solver(method="singlestep")])
def test_a_perfect_denoiser_lands_on_the_forward_process(sampler):
    x_start, eps = latents(2)
    everywhere = jnp.ones(SHAPE[:2], bool)

    def forward(t):
        t = jnp.full(2, t)
        return q_sample_soft_absorbing(None, SCHEDULE, x_start, t, everywhere, MU, noise=eps)

    shifted = around(sampler, MU)
    for t, t_prev in ((199, 120), (60, 3)):
        state, _ = shifted.step(shifted.init(forward(t)), x_start, jump(t, t_prev), None)
        np.testing.assert_allclose(state.x_t, forward(t_prev), rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("sampler", "grid"),
    [
        (ddpm(variance="fixed_large"), step_grid(SCHEDULE, 6)),
        (dpm_solver(order=3), step_grid(SCHEDULE, 6)),
        (dpm_solver(order=3, method="singlestep"), singlestep_grid(SCHEDULE, 6, order=3)),
    ],
    ids=["ddpm", "multistep", "singlestep"],
)
def test_a_chain_is_the_ordinary_one_moved(key, sampler, grid):
    """So its start is moved too: N(mu, I)."""
    centre = MU[None, None]

    def moved(x_t, time, self_cond):
        return denoise(x_t + centre, time) - centre

    ours = jax.jit(lambda key: sample(key, denoise, around(sampler, MU), grid, SHAPE))(key)
    plain = jax.jit(lambda key: sample(key, moved, sampler, grid, SHAPE))(key)
    np.testing.assert_allclose(ours.x_start, plain.x_start + centre, rtol=0, atol=1e-5)


def test_published_ancestral_step_has_no_shift(key):
    x_t, x_start = latents(2)
    published, plain = diffuseq_v2_ancestral(MU), ddpm(variance="fixed_large")
    (_, first), (_, second) = (
        sampler.step(sampler.init(x_t), x_start, jump(150, 20), None)
        for sampler in (published, plain)
    )
    np.testing.assert_array_equal(first.mean, second.mean)
    np.testing.assert_array_equal(published.start_mean, MU[None, None])


def test_absorbing_guide(key):
    shape, rate = (4, 500, 4), 0.5
    guide = absorb_after_step(MU, rate)
    grid = step_grid(SCHEDULE, 4)
    run = jax.jit(
        lambda key: sample(
            *(key, denoise, ddpm(variance="fixed_large"), grid, shape),
            guidance=guide,
            collect=lambda info, output, x: (jnp.all(x == MU[None, None], axis=-1), output.sigma),
        )
    )
    absorbed, sigma = run(key).collected
    share = np.asarray(absorbed).mean(axis=(1, 2))
    # 2000 tokens: a standard error of at most 0.011.
    np.testing.assert_allclose(share, rate * sigma, atol=0.05)
    assert share[-1] == 0
    assert not np.array_equal(absorbed[0][0], absorbed[0][1])


def test_arguments_are_checked():
    with pytest.raises(UserError, match="rate"):
        absorb_after_step(MU, 1.5)
    with pytest.raises(ValueError, match="mean_embed has shape"):
        around(ddim(), MU[None])
