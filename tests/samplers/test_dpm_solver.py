"""Algebra of DPM-Solver++: exactness, order of convergence, its grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.config import SampleConfig
from diffusion_jax.errors import UserError
from diffusion_jax.samplers import (
    SPACINGS,
    ddim,
    diffuseq_v2_grid,
    dpm_solver,
    inversion_grid,
    sample,
    singlestep_grid,
    step_grid,
)
from diffusion_jax.samplers.dpm_solver import _share_of_estimate, _span
from diffusion_jax.schedules import make_schedule
from diffusion_jax.types import StepInfo

SCHEDULE = make_schedule("cosine", 1000)
SHAPE = (1, 2, 3)


def steps_of(grid):
    return [StepInfo(*fields) for fields in zip(*grid)]


def walk(sampler, grid, denoise, x):
    """Run a chain step by step; ``denoise`` maps (x, info) to an estimate. Return all states."""
    step = jax.jit(lambda state, info: sampler.step(state, denoise(state.x_t, info), info, None)[0])
    state = sampler.init(x)
    states = [x]
    for info in steps_of(grid):
        state = step(state, info)
        states.append(state.x_t)
    return states


def toy_denoiser(x, info):
    """Return an estimate that depends on the state in a crooked way."""
    return jnp.tanh(x + 0.3 * jnp.roll(x, 1, axis=-1)) * (1 + 0.2 * info.alpha_bar)


def grid_for(method, num_steps, order, spacing="trailing", schedule=SCHEDULE):
    if method == "singlestep":
        return singlestep_grid(schedule, num_steps, order=order, spacing=spacing)
    return step_grid(schedule, num_steps, spacing=spacing)


@pytest.fixture
def x_init():
    return jax.random.normal(jax.random.key(3), SHAPE)


@pytest.mark.parametrize("method", ["multistep", "singlestep"])
@pytest.mark.parametrize("spacing", ["trailing", "log_snr"])
def test_order_one_is_ddim(x_init, method, spacing):
    grid = grid_for(method, 12, 1, spacing)
    ours = walk(dpm_solver(order=1, method=method), grid, toy_denoiser, x_init)
    ddims = walk(ddim(), step_grid(SCHEDULE, 12, spacing=spacing), toy_denoiser, x_init)
    np.testing.assert_allclose(ours, ddims, rtol=0, atol=3e-6)


@pytest.mark.parametrize("method", ["multistep", "singlestep"])
@pytest.mark.parametrize("order", [2, 3])
def test_point_mass_is_followed_to_the_last_digit(x_init, method, order):
    """With the right estimate the path is a straight line, in steps of any size."""
    x_start = np.linspace(-2.0, 2.0, 6, dtype=np.float32).reshape(SHAPE)
    x_init = np.asarray(x_init)
    sampler = dpm_solver(order=order, method=method)

    @jax.jit
    def chain(x, grid):
        def step(state, info):
            state, _ = sampler.step(state, x_start, info, None)
            return state, state.x_t

        return jax.lax.scan(step, sampler.init(x), grid)[1]

    for schedule in (make_schedule("sqrt", 2000), make_schedule("cosine", 2000)):
        for num_steps in (7, 2000):
            grid = grid_for(method, num_steps, order, schedule=schedule)

            def line(alpha_bar, noise):
                return np.sqrt(alpha_bar) * x_start + np.sqrt(noise) * x_init

            states = chain(line(grid.alpha_bar[0], grid.one_minus_alpha_bar[0]), grid)
            ends = zip(grid.alpha_bar_prev, grid.one_minus_alpha_bar_prev)
            # 2000 roundings of numbers up to 3.
            np.testing.assert_allclose(states, [line(*end) for end in ends], rtol=0, atol=2e-5)
            np.testing.assert_array_equal(states[-1], x_start)


@pytest.mark.parametrize("name", ["sqrt", "cosine"])
@pytest.mark.parametrize("num_steps", [3, 2000])
def test_steps_keep_their_digits(name, num_steps):
    """h and 1 - e^{-h} in float32, for steps small and large, from pure noise to clean data."""
    schedule = make_schedule(name, 2000)
    grid = step_grid(schedule, num_steps)
    h = np.diff(0.5 * schedule.log_snr[grid.t])
    np.testing.assert_allclose(_span(grid)[:-1], h, rtol=5e-6)
    share = np.sqrt(schedule.alphas_cumprod[grid.t[1:]]) * -np.expm1(-h)
    np.testing.assert_allclose(_share_of_estimate(grid)[:-1], share, rtol=2e-6)
    assert (_span(grid)[-1], _share_of_estimate(grid)[-1]) == (np.inf, 1)


MEAN, STD = 0.7, 0.4


def gaussian_denoiser(x, info):
    """Return E[x_start | x_t] for x_start ~ N(MEAN, STD^2)."""
    alpha, noise = jnp.sqrt(info.alpha_bar), info.one_minus_alpha_bar
    gain = alpha * STD**2 / (info.alpha_bar * STD**2 + noise)
    return MEAN + gain * (x - alpha * MEAN)


def gaussian_solution(x, grid):
    """Return where the exact flow takes ``x``: it keeps the standardised coordinate."""
    begin, begin_noise = np.float64(grid.alpha_bar[0]), np.float64(grid.one_minus_alpha_bar[0])
    z = (np.float64(x) - np.sqrt(begin) * MEAN) / np.sqrt(begin * STD**2 + begin_noise)
    end, end_noise = np.float64(grid.alpha_bar_prev[-1]), grid.one_minus_alpha_bar_prev[-1]
    return np.sqrt(end) * MEAN + np.sqrt(end * STD**2 + end_noise) * z


def lambda_grid(num_steps, history):
    """Return a grid uniform in lambda from -1.5 to 2, where the estimate changes most."""
    half_log_snr = np.linspace(-1.5, 2.0, num_steps + 1)
    alpha_bar, noise = 1 / (1 + np.exp(-2 * half_log_snr)), 1 / (1 + np.exp(2 * half_log_snr))
    zero = np.zeros(num_steps, np.float32)
    fields = {"alpha_bar": alpha_bar, "one_minus_alpha_bar": noise}
    return StepInfo(
        **{name: np.float32(field[:-1]) for name, field in fields.items()},
        **{f"{name}_prev": np.float32(field[1:]) for name, field in fields.items()},
        beta=np.float32(1 - alpha_bar[:-1] / alpha_bar[1:]),
        history=np.asarray(history, np.int32),
        **dict.fromkeys(("index", "t", "t_prev", "time", "time_prev"), zero),
    )


@pytest.mark.parametrize(
    ("order", "options"),
    [
        (1, {}),
        (2, {}),
        (2, {"second_order": "taylor"}),
        (3, {}),
        (2, {"method": "singlestep"}),
        (2, {"method": "singlestep", "second_order": "taylor"}),
        (3, {"method": "singlestep"}),
    ],
)
def test_order_of_convergence(x_init, order, options):
    """The error of the ODE with the exact denoiser of a Gaussian falls as (1 / steps)^order."""
    sampler = dpm_solver(order=order, **options)
    # Few enough steps for the error to stay above float32's rounding, on every version of jax.
    blocks = 12 if order < 3 else 4 if "method" in options else 6
    errors = []
    for steps in (2 * blocks, 4 * blocks):
        count, history = steps, np.arange(steps)
        if "method" in options:
            count, history = order * steps, np.tile(np.arange(order), steps)
        grid = lambda_grid(count, history)
        end = walk(sampler, grid, gaussian_denoiser, x_init)[-1]
        errors.append(np.mean(np.abs(end - gaussian_solution(x_init, grid))))
    rate = np.log2(errors[0] / errors[1])
    assert abs(rate - order) < 0.35, (errors, rate)


def test_multistep_uses_as_many_estimates_as_there_are(x_init):
    """The first step is of order 1, the second of order 2, and the last two fall back again."""
    grid = step_grid(SCHEDULE, 6)
    np.testing.assert_array_equal(grid.history, [0, 1, 2, 2, 1, 0])
    paths = [walk(dpm_solver(order=n), grid, toy_denoiser, x_init) for n in (1, 2, 3)]
    np.testing.assert_array_equal(paths[0][1], paths[2][1])
    np.testing.assert_allclose(paths[1][2], paths[2][2], rtol=0, atol=1e-6)
    assert np.max(np.abs(paths[0][2] - paths[1][2])) > 1e-3
    assert np.max(np.abs(paths[1][3] - paths[2][3])) > 1e-3
    assert np.all(np.isfinite(paths))


@pytest.mark.parametrize(
    ("method", "order", "fewest"), [("multistep", 3, 5), ("singlestep", 2, 3), ("singlestep", 3, 4)]
)
def test_the_configuration_knows_from_how_many_steps_an_order_acts(method, order, fewest):
    """The fewest steps it takes are the fewest at which a grid uses the order at all."""
    options = {"sampler": "dpm++", "method": method, "order": order}
    for steps in range(1, 8):
        acts = grid_for(method, steps, order).history.max() >= order - 1
        assert acts == (steps >= fewest)
        if acts:
            SampleConfig(**options, steps=steps)
        else:
            with pytest.raises(UserError, match=f"{fewest} steps or more"):
                SampleConfig(**options, steps=steps)
    for steps in (1, 2):
        assert not grid_for("multistep", steps, 2).history.any()
        SampleConfig(sampler="dpm++", steps=steps)


def nested_singlestep(order, grid, x):
    """Write the published singlestep updates out, in float64, with their calls inside a step."""
    rows = [StepInfo(*(np.float64(value) for value in info)) for info in steps_of(grid)]
    half_log_snr = [0.5 * np.log(r.alpha_bar / r.one_minus_alpha_bar) for r in rows]
    x, n = np.float64(x), 0
    while n < len(rows):
        block = [rows[n]]
        while n + len(block) < len(rows) and rows[n + len(block)].history > 0:
            block.append(rows[n + len(block)])
        s, t = block[0], block[-1]
        sigma_s = np.sqrt(s.one_minus_alpha_bar)
        alpha_t, sigma_t = np.sqrt(t.alpha_bar_prev), np.sqrt(t.one_minus_alpha_bar_prev)
        m_s = np.float64(toy_denoiser(jnp.float32(x), s))
        if len(block) == 1:
            decay = 0.0 if sigma_t == 0 else np.sqrt(s.alpha_bar) * sigma_t / (alpha_t * sigma_s)
            x = sigma_t / sigma_s * x + alpha_t * (1 - decay) * m_s
            n += 1
            continue
        h = 0.5 * np.log(t.alpha_bar_prev / t.one_minus_alpha_bar_prev) - half_log_snr[n]
        r = [(half_log_snr[n + k] - half_log_snr[n]) / h for k in range(1, len(block))]

        kept = x / sigma_s
        a_1, sigma_1 = np.sqrt(block[1].alpha_bar), np.sqrt(block[1].one_minus_alpha_bar)
        x_1 = sigma_1 * kept - a_1 * np.expm1(-r[0] * h) * m_s
        m_1 = np.float64(toy_denoiser(jnp.float32(x_1), block[1]))
        base = sigma_t * kept - alpha_t * np.expm1(-h) * m_s
        if order == 2:
            x = base - 0.5 / r[0] * alpha_t * np.expm1(-h) * (m_1 - m_s)
        else:
            last, m_last = r[0], m_1
            if len(block) == 3:
                a_2, sigma_2 = np.sqrt(block[2].alpha_bar), np.sqrt(block[2].one_minus_alpha_bar)
                x_2 = sigma_2 * kept - a_2 * np.expm1(-r[1] * h) * m_s
                phi_22 = np.expm1(-r[1] * h) / (r[1] * h) + 1
                x_2 = x_2 + r[1] / r[0] * a_2 * phi_22 * (m_1 - m_s)
                last, m_last = r[1], np.float64(toy_denoiser(jnp.float32(x_2), block[2]))
            x = base + alpha_t * (np.expm1(-h) / h + 1) / last * (m_last - m_s)
        n += len(block)
    return x


@pytest.mark.parametrize(("order", "num_steps"), [(2, 7), (3, 9)])
def test_scanned_singlestep_is_the_nested_one(x_init, order, num_steps):
    grid = singlestep_grid(SCHEDULE, num_steps, order=order)
    ours = walk(dpm_solver(order=order, method="singlestep"), grid, toy_denoiser, x_init)
    nested = nested_singlestep(order, grid, x_init)
    # The grid's float32 numbers, of which lambda is a logarithm.
    np.testing.assert_allclose(ours[-1], nested, rtol=0, atol=2e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("order", "num_steps"), [(1, 4), (2, 1), (2, 8), (2, 9), (3, 9), (3, 12)])
def test_singlestep_grids(spacing, order, num_steps):
    grid = singlestep_grid(SCHEDULE, num_steps, order=order, spacing=spacing)
    assert len(grid.t) == num_steps
    assert grid.t_prev[-1] == -1
    assert grid.history[-1] == 0
    np.testing.assert_array_equal(grid.alpha_bar_prev[:-1], grid.alpha_bar[1:])
    plain = step_grid(SCHEDULE, num_steps, spacing=spacing)
    assert set(grid.alpha_bar[grid.history == 0]) <= set(plain.alpha_bar)
    assert np.sum(grid.history == 0) == -(-(num_steps - 1) // order) + 1
    half_log_snr = np.log(grid.alpha_bar / grid.one_minus_alpha_bar)
    inner = np.flatnonzero(grid.history[1:-1]) + 1
    for i in inner[grid.history[inner + 1] != 0]:
        left, right = np.diff(half_log_snr[i - 1 : i + 2])
        np.testing.assert_allclose(left, right, rtol=1e-3)


def test_bad_arguments(key):
    for options, message in (
        ({"order": 4}, "order=4"),
        ({"method": "both"}, "'both'.*singlestep"),
        ({"second_order": "heun"}, "'heun'.*taylor"),
        ({"order": 3, "second_order": "taylor"}, "no effect on order=3"),
        ({"method": "singlestep", "faithful_v2": True}, "multistep"),
    ):
        with pytest.raises(UserError, match=message):
            dpm_solver(**options)
    with pytest.raises(UserError, match="order=0"):
        singlestep_grid(SCHEDULE, 3, order=0)
    with pytest.raises(UserError, match="num_steps=1001"):
        singlestep_grid(SCHEDULE, 1001, order=2)
    with pytest.raises(UserError, match="linspace"):
        diffuseq_v2_grid(SCHEDULE, 5, spacing="linspace")
    sampler = dpm_solver(order=2, method="singlestep")
    for grid in (step_grid(SCHEDULE, 9), singlestep_grid(SCHEDULE, 9, order=3)):
        with pytest.raises(UserError, match=r"singlestep_grid\(schedule, num_steps, order=2\)"):
            sample(key, lambda x, time, self_cond: x, sampler, grid, SHAPE)


def test_from_data_to_noise(x_init):
    """Upwards the formulas are the same; DDIM's error is 0.03 here."""
    grid = inversion_grid(SCHEDULE, 300)
    there = walk(dpm_solver(), grid, gaussian_denoiser, x_init)[-1]
    np.testing.assert_allclose(there, gaussian_solution(x_init, grid), rtol=0, atol=1e-3)
