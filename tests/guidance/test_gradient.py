"""Plain gradient guidance: it samples a known posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.guidance import gradient_guidance
from diffusion_jax.samplers import Anchor, ddim, ddpm, sample, step_grid
from diffusion_jax.schedules import make_schedule
from diffusion_jax.types import StepInfo, StepOutput

MEAN, STD = 0.5, 0.8  # of the data
OBSERVED, NOISE_STD = 1.5, 0.6
SHAPE = (16, 32, 64)


def denoised(x, alpha_bar, one_minus_alpha_bar):
    """Return mean and variance of p(x_start | x_t) for Gaussian data."""
    root = jnp.sqrt(alpha_bar)
    variance = alpha_bar * STD**2 + one_minus_alpha_bar
    mean = MEAN + STD**2 * root / variance * (x - root * MEAN)
    return mean, STD**2 * one_minus_alpha_bar / variance


def observation(x, info, output):
    """Return log p(observed | x_t) [B], exactly, up to a constant."""
    mean, variance = denoised(x, info.alpha_bar_prev, info.one_minus_alpha_bar_prev)
    square = jnp.square(OBSERVED - mean) / (variance + NOISE_STD**2)
    return -0.5 * jnp.sum(square, axis=(1, 2))


@pytest.fixture(scope="module")
def unguided():
    return run(ddpm(), 100)


def run(sampler, num_timesteps, **options):
    # Its last step starts from almost clean data. That of "sqrt" is long, and adds no noise, so
    # it cannot be guided.
    schedule = make_schedule("cosine", num_timesteps)
    alphas_cumprod = jnp.asarray(schedule.alphas_cumprod, jnp.float32)

    def denoise(x_t, time, self_cond=None):
        alpha_bar = alphas_cumprod[jnp.round(time[0] * num_timesteps / 1000).astype(int)]
        return denoised(x_t, alpha_bar, 1 - alpha_bar)[0]

    chain = jax.jit(
        lambda key: sample(key, denoise, sampler, step_grid(schedule), SHAPE, **options)
    )
    return np.asarray(chain(jax.random.key(0)).x_start)


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(ddpm(), id="ddpm"),
        pytest.param(ddim(eta=1.0), id="ddim", marks=pytest.mark.slow),
    ],
)
def test_a_gaussian_posterior_is_sampled(sampler):
    x = run(sampler, 500, guidance=gradient_guidance(observation))
    precision = 1 / STD**2 + 1 / NOISE_STD**2
    mean = (MEAN / STD**2 + OBSERVED / NOISE_STD**2) / precision
    std = precision**-0.5
    # Four standard errors of 32768 draws, and 1 per cent of the spread for 500 steps.
    assert abs(x.mean() - mean) < 4 * std / np.sqrt(x.size) + 0.01 * std
    assert abs(x.std() - std) < 4 * std / np.sqrt(2 * x.size) + 0.01 * std


def test_scale_zero_is_no_guidance(unguided):
    x = run(ddpm(), 100, guidance=gradient_guidance(observation, scale=0.0))
    np.testing.assert_array_equal(x, unguided)
    assert abs(x.mean() - MEAN) < 0.05 * STD


def test_a_window_that_no_step_is_in_is_no_guidance(unguided):
    never = gradient_guidance(observation, min_t=100)
    # Another program, with a branch that is never taken: its rounding may differ, by compiler.
    np.testing.assert_allclose(run(ddpm(), 100, guidance=never), unguided, atol=1e-5)


def test_the_slope_is_that_at_the_mean_with_anchors_as_kept():
    x = jnp.ones((2, 3, 4))
    anchor = Anchor(2 * x, jnp.ones((2, 3), bool).at[:, 0].set(False))

    def uphill(x, info, output):
        return jnp.sum(x[:, 0], axis=-1) * jnp.sum(jnp.square(x[:, 1:]), axis=(1, 2))

    guide = gradient_guidance(uphill, scale=2.0, anchor=anchor)
    info = StepInfo(*(field[0] for field in step_grid(make_schedule("cosine", 10))))
    output = StepOutput(x, mean=-x, sigma=jnp.float32(0.5))
    moved, _ = guide.apply(jax.random.split(jax.random.key(0)), x, (), info, output)
    # The slope is the sum of the four kept twos, times twice the mean, which is -1.
    np.testing.assert_allclose(moved[:, 0], 1.0)
    np.testing.assert_allclose(moved[:, 1:], 1.0 - 2.0 * 0.5**2 * 8.0 * 2.0, rtol=1e-6)


@pytest.mark.parametrize("options", [{"scale": -1.0}, {"min_t": 5, "max_t": 4}])
def test_bad_arguments(options):
    with pytest.raises(UserError, match="not"):
        gradient_guidance(observation, **options)
