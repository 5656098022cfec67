"""Algebra of single steps, for steps between any two indices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffusion_jax.errors import UserError
from diffusion_jax.forward import q_posterior
from diffusion_jax.samplers import (
    SPACINGS,
    ddim,
    ddpm,
    inversion_grid,
    legacy_gap_grid,
    shift_time,
    singlestep_grid,
    step_grid,
)
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


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 50, 199, 200])
def test_grids_descend_to_clean_data(spacing, num_steps):
    grid = step_grid(SCHEDULE, num_steps, spacing=spacing)
    assert len(grid.t) == num_steps
    assert np.all(np.diff(grid.time) < 0)
    assert np.all(grid.beta > 0)
    np.testing.assert_array_equal(grid.t_prev, np.append(grid.t[1:], -1))
    np.testing.assert_array_equal(grid.alpha_bar_prev[:-1], grid.alpha_bar[1:])
    assert (grid.alpha_bar_prev[-1], grid.one_minus_alpha_bar_prev[-1]) == (1, 0)
    between = spacing in ("quadratic", "log_snr")
    np.testing.assert_allclose(grid.time, 5 * grid.t, rtol=0, atol=2.5 if between else 0)
    assert grid.t[0] <= 199
    if spacing != "leading":
        assert grid.t[0] == 199
    if spacing == "leading" or (spacing == "linspace" and num_steps > 1):
        assert grid.t[-1] == 0


def test_quadratic_grids_are_uniform_in_the_root_of_time():
    grid = step_grid(SCHEDULE, 8, spacing="quadratic")
    steps = np.diff(np.sqrt((grid.time / 5 + 1) / 200))
    np.testing.assert_allclose(steps, (200**-0.5 - 1) / 8, rtol=1e-5)


def test_log_snr_grids_are_uniform_in_it():
    grid = step_grid(SCHEDULE, 8, spacing="log_snr")
    log_snr = np.log(grid.alpha_bar) - np.log(grid.one_minus_alpha_bar)
    ends = SCHEDULE.log_snr[[199, 0]]
    np.testing.assert_allclose(np.diff(log_snr), (ends[1] - ends[0]) / 8, rtol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddim_keeps_the_marginals_on_every_grid(spacing, eta):
    """What is kept of the old noise and what is drawn make 1 - alpha_bar_prev (eq. 7 and 12)."""
    x_start, eps = (np.asarray(x) for x in latents(2))
    sampler = ddim(eta=eta)
    for num_steps in (3, 40):
        grid = step_grid(SCHEDULE, num_steps, spacing=spacing)
        wide = {
            name: np.asarray(field)[:, None, None, None] for name, field in grid._asdict().items()
        }
        x_t = np.sqrt(wide["alpha_bar"]) * x_start + np.sqrt(wide["one_minus_alpha_bar"]) * eps

        def mean_and_sigma(x_t, info, sampler=sampler):
            return sampler.step(sampler.init(x_t), jnp.asarray(x_start), info, None)[1][1:]

        mean, sigma = jax.vmap(mean_and_sigma)(x_t, grid)
        kept = np.asarray(mean) - np.sqrt(wide["alpha_bar_prev"]) * x_start
        kept = np.mean(kept / eps, axis=(1, 2, 3))
        total = kept**2 + np.asarray(sigma) ** 2
        np.testing.assert_allclose(total, grid.one_minus_alpha_bar_prev, rtol=1e-4, atol=1e-6)


def test_shifted_time_is_told_and_not_walked():
    grid = step_grid(SCHEDULE, 10)
    shifted = shift_time(grid, SCHEDULE, 0.1)
    np.testing.assert_allclose(shifted.time, np.minimum(grid.time + 100, 995), rtol=1e-6)
    for field in set(grid._fields) - {"time"}:
        np.testing.assert_array_equal(getattr(shifted, field), getattr(grid, field))
    kept = respace(SCHEDULE, (0, 50, 100, 150, 199))
    told = shift_time(step_grid(kept), kept, 0.2).time
    np.testing.assert_allclose(told, kept.model_timesteps[[4, 4, 3, 2, 1]], rtol=1e-6)
    for shift in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="time_shift"):
            shift_time(grid, SCHEDULE, shift)


def test_a_large_estimate_of_time_never_leaves_the_schedule():
    grid = shift_time(singlestep_grid(SCHEDULE, 9, order=3, spacing="log_snr"), SCHEDULE, 0.5)
    assert grid.time.max() == np.float32(SCHEDULE.model_timesteps[-1])


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
        ({"num_steps": 201, "spacing": "log_snr"}, "num_steps=201.*200"),
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
