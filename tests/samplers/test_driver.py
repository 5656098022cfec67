"""The driver: order of its parts, random streams, equivalences, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusion_jax.errors import UserError
from diffusion_jax.keys import per_example, stream
from diffusion_jax.samplers import (
    Anchor,
    clamp_to_embeddings,
    ddim,
    ddpm,
    dpm_solver,
    inversion_grid,
    sample,
    singlestep_grid,
    step_grid,
)
from diffusion_jax.schedules import make_schedule
from diffusion_jax.types import Guidance, StepInfo

SCHEDULE = make_schedule("sqrt", 200)
GRID = step_grid(SCHEDULE, 10)
SHAPE = (8, 5, 4)
SINGLESTEP_GRID = singlestep_grid(SCHEDULE, 10, order=2)
SOLVERS = [(dpm_solver(order=3), GRID), (dpm_solver(method="singlestep"), SINGLESTEP_GRID)]


def denoise(x_t, time, self_cond=None):
    """Return a toy estimate that depends on all its arguments and mixes positions."""
    mixed = jnp.tanh(x_t + 0.3 * jnp.roll(x_t, 1, axis=1)) * (1 - time[:, None, None] / 2000)
    return mixed if self_cond is None else mixed + 0.1 * self_cond


def run(key, sampler, grid=GRID, shape=SHAPE, *, denoise=denoise, **options):
    """Sample in one compiled program, which is quicker than op by op."""
    return jax.jit(lambda key: sample(key, denoise, sampler, grid, shape, **options))(key)


@pytest.fixture
def embedding():
    return jax.random.normal(jax.random.key(5), (11, SHAPE[-1]))


@pytest.fixture
def anchor():
    x_start = jax.random.normal(jax.random.key(6), SHAPE)
    return Anchor(x_start, jax.random.bernoulli(jax.random.key(7), 0.5, SHAPE[:2]))


def push(step_size):
    """Return a guide with noise of its own, whose state counts the steps."""

    def apply(keys, x, state, info, output):
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
        pull = output.sigma * (output.mean - x) + output.pred_x_start
        return x + step_size * (pull + noise), state + 1

    return Guidance(init=lambda x: jnp.zeros((), jnp.int32), apply=apply)


def everything(embedding, anchor):
    return {
        "clamp": clamp_to_embeddings(embedding, max_t=100),
        "anchor": anchor,
        "guidance": push(0.01),
        "self_condition": True,
        "noise_bound": 2.0,
    }


def test_scan_is_the_loop_written_out(key, embedding, anchor):
    keys = per_example(key, jnp.arange(SHAPE[0]))
    sampler, guide = ddpm(), push(0.01)
    clamp = clamp_to_embeddings(embedding, min_t=50)
    options = {"clamp": clamp, "anchor": anchor, "guidance": guide, "self_condition": True}
    result = run(keys, sampler, **options)

    def normal(name, step):
        streams = jax.vmap(lambda key: stream(key, name, step))(keys)
        return jax.vmap(lambda key: jax.random.normal(key, SHAPE[1:]))(streams)

    @jax.jit
    def one_step(state, guide_state, self_cond, info):
        self_cond = denoise(state.x_t, jnp.full(SHAPE[0], info.time), self_cond)
        estimate = clamp(self_cond, info)
        state, output = sampler.step(state, estimate, info, normal("step_noise", info.index))
        guide_keys = jax.vmap(lambda key: stream(key, "guidance", info.index))(keys)
        x, guide_state = guide.apply(guide_keys, state.x_t, guide_state, info, output)
        return state._replace(x_t=anchor(x)), guide_state, self_cond

    x = anchor(normal("x_init", 0))
    carry = sampler.init(x), guide.init(x), jnp.zeros(SHAPE)
    for index in range(10):
        carry = one_step(*carry, StepInfo(*(field[index] for field in GRID)))
    np.testing.assert_allclose(result.x_start, carry[0].x_t, rtol=0, atol=1e-5)
    assert result.collected is None


def test_jit_is_eager(key, embedding, anchor):
    options = everything(embedding, anchor)
    eager = sample(key, denoise, ddpm(), GRID, SHAPE, **options)
    compiled = run(key, ddpm(), **options)
    np.testing.assert_allclose(compiled.x_start, eager.x_start, rtol=0, atol=1e-5)


def test_a_batch_is_its_examples_one_by_one(key, embedding, anchor):
    keys = per_example(key, jnp.arange(SHAPE[0]))
    whole = run(keys, ddpm(), **everything(embedding, anchor)).x_start
    part = slice(5, 6)
    options = everything(embedding, Anchor(anchor.x_start[part], anchor.noise_mask[part]))
    alone = run(keys[part], ddpm(), shape=(1, *SHAPE[1:]), **options).x_start
    np.testing.assert_allclose(alone, whole[part], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("sampler", "grid"),
    [pytest.param(*SOLVERS[0], marks=pytest.mark.slow), SOLVERS[1]],
    ids=["multistep", "singlestep"],
)
def test_solvers_see_every_part_of_the_driver_at_every_call(key, embedding, anchor, sampler, grid):
    """Guide, clamp and self-conditioning act on intermediate states, and a batch is its rows."""
    options = everything(embedding, anchor) | {"noise_bound": None}
    keys = per_example(key, jnp.arange(SHAPE[0]))
    calls = {"collect": lambda info, output, x: (output.pred_x_start, x)}
    estimates, states = run(keys, sampler, grid, **options, **calls).collected
    clamped = np.asarray(grid.t) <= 100
    distance = np.abs(np.asarray(estimates)[..., None, :] - np.asarray(embedding)).max(-1).min(-1)
    np.testing.assert_array_equal(distance.max(axis=(1, 2)) == 0, clamped)
    for left_out in ("guidance", "self_condition"):
        others = run(keys, sampler, grid, **(options | {left_out: None}), **calls).collected[1]
        change = np.abs(states - others).max(axis=(1, 2, 3))
        # Self-conditioning has nothing to say at first; the last state is a word either way.
        assert np.all(change[1:-1] > 1e-4), (left_out, change)
    part = slice(2, 3)
    options["anchor"] = Anchor(anchor.x_start[part], anchor.noise_mask[part])
    alone = run(keys[part], sampler, grid, (1, *SHAPE[1:]), **options).x_start
    np.testing.assert_allclose(alone, states[-1][part], rtol=0, atol=1e-6)


def test_a_scalar_key_is_split_by_row(key):
    keys = per_example(key, jnp.arange(SHAPE[0]))
    split, given = (run(k, ddpm()).x_start for k in (key, keys))
    np.testing.assert_array_equal(split, given)


def test_eight_devices_are_one(key, embedding, anchor):
    options = everything(embedding, anchor)
    keys = per_example(key, jnp.arange(SHAPE[0]))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    sharded = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("data")))
    eight, one = (run(k, ddpm(), **options).x_start for k in (sharded, keys))
    assert len(eight.sharding.device_set) == 8
    np.testing.assert_allclose(eight, one, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("sampler", "grid"),
    [(ddpm(), GRID), (ddim(), GRID), (ddim(eta=0.5), GRID), *SOLVERS],
    ids=["ddpm", "ddim", "ddim_eta", "multistep", "singlestep"],
)
def test_given_positions_stay_bit_equal(key, embedding, anchor, sampler, grid):
    options = {"anchor": anchor, "guidance": push(0.5), "clamp": clamp_to_embeddings(embedding)}
    result = run(key, sampler, grid, collect=lambda info, output, x: x, **options)
    kept = ~anchor.noise_mask
    for x in (*result.collected, result.x_start):
        np.testing.assert_array_equal(x[kept], anchor.x_start[kept])
    assert not np.any(result.x_start[anchor.noise_mask] == anchor.x_start[anchor.noise_mask])


def zero_estimate(x_t, time, self_cond=None):
    return jnp.zeros_like(x_t)


def step_noise(info, output, x):
    """Collect the noise that a step added; the last one adds none."""
    return (x - output.mean) / jnp.maximum(output.sigma, 1e-6)


def test_noise_comes_from_the_key_and_differs_by_step(key):
    def noise(seed, eta):
        options = {"x_init": jnp.zeros(SHAPE), "collect": step_noise, "denoise": zero_estimate}
        return run(jax.random.fold_in(key, seed), ddim(eta=eta), **options).collected

    rows = np.concatenate([noise(seed, 1.0)[:-1].reshape(9, -1) for seed in (0, 1)])
    # 153 correlations of 160 numbers, standard deviation 0.08 each.
    assert np.max(np.abs(np.corrcoef(rows) - np.eye(18))) < 0.4
    assert not noise(0, 0.0).any()


def test_bounded_noise_is_a_truncated_normal(key):
    options = {"noise_bound": 0.9, "collect": step_noise, "denoise": zero_estimate}
    noise = np.asarray(run(key, ddpm(), shape=(64, 20, 10), **options).collected[:-1])
    assert np.abs(noise).max() <= 0.9 + 1e-4
    density, mass = 0.26609, 0.63188  # of N(0, 1) at 0.9, and between -0.9 and 0.9
    # 115,200 draws give a standard error of 0.0007.
    np.testing.assert_allclose(noise.var(), 1 - 2 * 0.9 * density / mass, atol=0.003)


def test_scaled_noise_is_the_same_noise_made_smaller(key):
    options = {"x_init": jnp.zeros(SHAPE), "collect": step_noise, "denoise": zero_estimate}
    whole = run(key, ddpm(), **options).collected
    half = run(key, ddpm(), noise_scale=0.5, **options).collected
    np.testing.assert_allclose(half[:-1], 0.5 * whole[:-1], atol=2e-5)
    without = run(key, ddpm(), noise_scale=0.0, **options).x_start
    still = run(key, ddpm(variance="zero"), **options).x_start
    np.testing.assert_allclose(without, still, atol=1e-6)


def test_gaussian_target_is_sampled(key):
    """The exact denoiser of x_start ~ N(mean, std^2) makes DDPM sample that distribution."""
    mean, std = 1.5, 0.5
    alphas_cumprod = jnp.asarray(SCHEDULE.alphas_cumprod, jnp.float32)

    def exact(x_t, time, self_cond):
        alpha_bar = alphas_cumprod[jnp.round(time / 5).astype(int)][:, None, None]
        gain = jnp.sqrt(alpha_bar) * std**2 / (alpha_bar * std**2 + 1 - alpha_bar)
        return mean + gain * (x_t - jnp.sqrt(alpha_bar) * mean)

    # The last step returns the estimate, so the state before it is the one to look at.
    grid = jax.tree.map(lambda field: field[:-1], step_grid(SCHEDULE))
    shape = (16, 50, 25)
    for sampler in (ddpm(variance="fixed_large"), ddpm(), ddim()):
        x = np.asarray(run(key, sampler, grid, shape, denoise=exact).x_start)
        alpha_bar = SCHEDULE.alphas_cumprod[0]
        wanted = np.sqrt(alpha_bar) * mean, np.sqrt(alpha_bar * std**2 + 1 - alpha_bar)
        # 20,000 draws: standard errors 0.0036 and 0.0025; the rest is 200 discrete steps.
        np.testing.assert_allclose((x.mean(), x.std()), wanted, atol=0.015)


def test_collect_every_counts_back_from_the_last_step(key):
    def collect(info, output, x):
        return {"index": info.index, "x": x}

    full = run(key, ddpm(), collect=collect)
    np.testing.assert_array_equal(full.collected["index"], np.arange(10))
    np.testing.assert_array_equal(full.collected["x"][-1], full.x_start)
    for every in (4, 10, 25):
        part = run(key, ddpm(), collect=collect, collect_every=every).collected
        wanted = np.arange(10)[9 % every :: every]
        np.testing.assert_array_equal(part["index"], wanted)
        np.testing.assert_array_equal(part["x"], full.collected["x"][wanted])


@pytest.mark.parametrize("collect", [False, True], ids=["plain", "collect"])
def test_memory_does_not_grow_with_the_steps(key, embedding, anchor, collect):
    options = everything(embedding, anchor)
    schedule = make_schedule("sqrt", 1000)

    def temporary_bytes(num_steps):
        grid = step_grid(schedule, num_steps)
        extra = {"collect": lambda i, o, x: x, "collect_every": num_steps // 5} if collect else {}

        def chain(key):
            return sample(key, denoise, ddpm(), grid, SHAPE, **options, **extra)

        memory = jax.jit(chain).lower(key).compile().memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    # Eleven numbers a step for the grid itself; one latent is 640 bytes.
    assert temporary_bytes(1000) - temporary_bytes(10) <= 1000 * 11 * 4


def test_self_conditioning_feeds_the_raw_output_back(key, embedding):
    seen = []

    def spy(x_t, time, self_cond):
        jax.debug.callback(lambda array: seen.append(np.asarray(array)), self_cond, ordered=True)
        return denoise(x_t, time, self_cond)

    grid = step_grid(SCHEDULE, 2)
    options = {"clamp": clamp_to_embeddings(embedding), "x_init": jnp.ones(SHAPE)}
    run(key, ddim(), grid, denoise=spy, self_condition=True, **options)
    jax.effects_barrier()
    assert not seen[0].any()
    first_output = denoise(jnp.ones(SHAPE), jnp.full(SHAPE[0], grid.time[0]), jnp.zeros(SHAPE))
    np.testing.assert_allclose(seen[1], first_output, rtol=0, atol=1e-6)


def test_clamp_window(embedding):
    x = jax.random.normal(jax.random.key(1), SHAPE)
    distance = jnp.sum((x[:, :, None] - embedding[None, None]) ** 2, -1)
    nearest = embedding[jnp.argmin(distance, -1)]
    clamp = clamp_to_embeddings(embedding, min_t=30, max_t=60)
    for t, clamped in ((29, False), (30, True), (60, True), (61, False)):
        info = jax.tree.map(lambda field: field[0], step_grid(SCHEDULE, spacing=[t]))
        np.testing.assert_array_equal(clamp(x, info), nearest if clamped else x)
    with pytest.raises(UserError, match="min_t"):
        clamp_to_embeddings(embedding, min_t=2, max_t=1)


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        (ddim(), {"noise_bound": 1.0}, "deterministic"),
        (ddim(), {"noise": jnp.zeros((10, *SHAPE))}, "deterministic"),
        (ddpm(), {"noise": jnp.zeros((10, *SHAPE)), "noise_bound": 1.0}, "given noise"),
        (ddpm(), {"noise_bound": 0.0}, "noise_bound=0"),
        (ddpm(), {"noise_scale": 1.1}, "noise_scale=1.1"),
        (ddim(), {"noise_scale": 0.5}, "deterministic"),
        (ddpm(), {"noise": jnp.zeros((10, *SHAPE)), "noise_scale": 0.5}, "given noise"),
        (ddpm(), {"collect_every": 2}, "collect"),
        (ddpm(), {"collect": lambda i, o, x: x, "collect_every": 0}, "collect_every=0"),
    ],
)
def test_options_that_cannot_be_honoured(key, sampler, options, message):
    with pytest.raises(UserError, match=message):
        sample(key, denoise, sampler, GRID, SHAPE, **options)


def test_noise_cannot_be_drawn_on_the_way_up(key):
    grid = inversion_grid(SCHEDULE, 5)
    with pytest.raises(UserError, match="deterministic sampler"):
        sample(key, denoise, ddim(eta=0.5), grid, SHAPE)
    assert np.all(np.isfinite(run(key, ddim(), grid).x_start))


def test_keys_and_shapes_are_checked(key, anchor):
    with pytest.raises(UserError, match="typed key"):
        sample(jnp.zeros(2, jnp.uint32), denoise, ddpm(), GRID, SHAPE)
    with pytest.raises(UserError, match="typed key"):
        sample(0, denoise, ddpm(), GRID, SHAPE)
    with pytest.raises(ValueError, match="key has shape"):
        sample(jax.random.split(key, 3), denoise, ddpm(), GRID, SHAPE)
    with pytest.raises(ValueError, match="noise has shape"):
        sample(key, denoise, ddpm(), GRID, SHAPE, noise=jnp.zeros(SHAPE))
    bad = anchor._replace(noise_mask=anchor.noise_mask[:1])
    with pytest.raises(ValueError, match="noise_mask has shape"):
        sample(key, denoise, ddpm(), GRID, SHAPE, anchor=bad)
    with pytest.raises(ValueError, match="x_init has shape"):
        sample(key, denoise, ddpm(), GRID, SHAPE, x_init=jnp.zeros(SHAPE[1:]))
