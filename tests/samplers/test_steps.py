"""Algebra of single steps, for steps between any two indices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffusion_jax.errors import UserError
from diffusion_jax.forward import q_posterior
from diffusion_jax.samplers import ddim, ddpm, inversion_grid, legacy_gap_grid, step_grid
from diffusion_jax.schedules import make_schedule, respace

SCHEDULE = make_schedule("sqrt", 200)
SHAPE = (2, 3, 4)
pairs = st.tuples(st.integers(0, 199), st.integers(0, 199)).filter(lambda pair: pair[0] != pair[1])


def jump(t, t_prev):
    """Return the step from t to t_prev; -1 is clean data."""
    timesteps = [t] if t_prev < 0 else [t_prev, t]
    grid = step_grid(SCHEDULE, spacing=timesteps)
    return jax.tree.map(lambda field: field[0], grid)


def latents(count, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return [jax.random.normal(key, SHAPE) for key in keys]


@settings(max_examples=25, deadline=None)
@given(pairs)
def test_perfect_denoiser_lands_on_the_forward_process(pair):
    t, t_prev = max(pair), min(pair)
    x_start, eps = latents(2)
    alpha_bar, alpha_bar_prev = SCHEDULE.alphas_cumprod[[t, t_prev]]
    x_t = np.sqrt(alpha_bar) * x_start + np.sqrt(1 - alpha_bar) * eps
    sampler = ddim(eta=0)
    state, _ = sampler.step(sampler.init(x_t), x_start, jump(t, t_prev), None)
    wanted = np.sqrt(alpha_bar_prev) * x_start + np.sqrt(1 - alpha_bar_prev) * eps
    # Float32 rounding of eps, which is divided by sqrt(1 - alpha_bar) >= 0.26.
    np.testing.assert_allclose(state.x_t, wanted, rtol=0, atol=5e-6)


@settings(max_examples=25, deadline=None)
@given(pairs)
# Nearly all noise is drawn afresh.
@example((0, 199))
@example((50, 199))
def test_ddpm_is_ddim_with_eta_one_and_the_posterior(pair):
    t, t_prev = max(pair), min(pair)
    x_t, pred_x_start, noise = latents(3)
    info = jump(t, t_prev)
    (first, small), (second, one) = (
        sampler.step(sampler.init(x_t), pred_x_start, info, noise)
        for sampler in (ddpm(variance="fixed_small"), ddim(eta=1))
    )
    np.testing.assert_allclose(small.mean, one.mean, rtol=0, atol=2e-6)
    np.testing.assert_allclose(small.sigma, one.sigma, rtol=1e-5)
    np.testing.assert_allclose(first.x_t, second.x_t, rtol=0, atol=1e-5)
    ts, ts_prev = jnp.full(2, t), jnp.full(2, t_prev)
    mean, variance = q_posterior(SCHEDULE, pred_x_start, x_t, ts, ts_prev)
    np.testing.assert_allclose(small.mean, mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(small.sigma**2, variance[0, 0, 0], rtol=1e-5)


@pytest.mark.parametrize("t", [0, 1, 57, 199])
@pytest.mark.parametrize("sampler", [ddpm(), ddpm(variance="fixed_large"), ddim(), ddim(eta=1)])
def test_the_last_step_returns_the_estimate_itself(sampler, t):
    x_t, pred_x_start, noise = latents(3)
    state, output = sampler.step(sampler.init(x_t), pred_x_start, jump(t, -1), noise)
    np.testing.assert_array_equal(state.x_t, pred_x_start)
    assert output.sigma == 0


def test_fixed_large_is_the_beta_of_the_jump():
    x_t, pred_x_start, noise = latents(3)
    sampler = ddpm(variance="fixed_large")
    _, output = sampler.step(sampler.init(x_t), pred_x_start, jump(150, 20), noise)
    beta = 1 - SCHEDULE.alphas_cumprod[150] / SCHEDULE.alphas_cumprod[20]
    np.testing.assert_allclose(output.sigma**2, beta, rtol=1e-6)


def test_zero_variance_follows_the_mean():
    x_t, pred_x_start = latents(2)
    sampler = ddpm(variance="zero")
    state, output = sampler.step(sampler.init(x_t), pred_x_start, jump(150, 20), None)
    np.testing.assert_array_equal(state.x_t, output.mean)
    assert output.sigma == 0
    assert not sampler.needs_noise


def test_options_are_checked():
    with pytest.raises(UserError, match=r"variance 'small'.*fixed_small"):
        ddpm(variance="small")
    for eta in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="eta"):
            ddim(eta=eta)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 50, 199, 200])
def test_grids_descend_to_clean_data(spacing, num_steps):
    grid = step_grid(SCHEDULE, num_steps, spacing=spacing)
    assert len(grid.t) == num_steps
    assert np.all(np.diff(grid.t) < 0)
    np.testing.assert_array_equal(grid.t_prev, np.append(grid.t[1:], -1))
    np.testing.assert_array_equal(grid.alpha_bar_prev[:-1], grid.alpha_bar[1:])
    assert (grid.alpha_bar_prev[-1], grid.one_minus_alpha_bar_prev[-1]) == (1, 0)
    np.testing.assert_array_equal(grid.time, np.float32(5) * grid.t)
    assert grid.t[0] <= 199
    if spacing != "leading":
        assert grid.t[0] == 199
    if spacing == "leading" or (spacing == "linspace" and num_steps > 1):
        assert grid.t[-1] == 0


def test_all_steps_is_the_default():
    np.testing.assert_array_equal(step_grid(SCHEDULE).t, np.arange(199, -1, -1))


def test_explicit_timesteps_are_the_respaced_process():
    kept = (0, 3, 50, 199)
    explicit, respaced = step_grid(SCHEDULE, spacing=kept), step_grid(respace(SCHEDULE, kept))
    for field in set(explicit._fields) - {"t", "t_prev"}:
        np.testing.assert_allclose(getattr(explicit, field), getattr(respaced, field), rtol=1e-6)


def test_the_published_gap_grid_steps_to_the_adjacent_index():
    grid = legacy_gap_grid(SCHEDULE, 50)
    np.testing.assert_array_equal(grid.t, [199, 149, 99, 49])
    np.testing.assert_array_equal(grid.t_prev, [198, 148, 98, 48])


def test_the_inversion_grid_goes_up():
    grid = inversion_grid(SCHEDULE, 3)
    np.testing.assert_array_equal(grid.t, [0, 1, 2])
    np.testing.assert_array_equal(grid.t_prev, [1, 2, 3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 201}, "num_steps=201.*200"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_steps": 5, "spacing": "even"}, "'even'.*trailing"),
        ({"num_steps": 2, "spacing": [1, 2, 3]}, "3 timesteps"),
        ({"spacing": [1, 1]}, "repeated"),
        ({"spacing": [0, 200]}, "200.*199"),
        ({"spacing": [-1, 5]}, "-1"),
        ({"spacing": []}, "non-empty"),
        ({"spacing": [0.5]}, "integers"),
    ],
)
def test_grid_arguments_are_checked(arguments, message):
    with pytest.raises(UserError, match=message):
        step_grid(SCHEDULE, **arguments)


def test_special_grids_check_theirs():
    with pytest.raises(UserError, match="gap=0"):
        legacy_gap_grid(SCHEDULE, 0)
    with pytest.raises(UserError, match="num_steps=200"):
        inversion_grid(SCHEDULE, 200)
