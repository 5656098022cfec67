"""Noise schedules that every position learns for itself (SeqDiffuSeq)."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.adaptive import (
    init_position_schedules,
    levels,
    observe,
    positions_in_target,
    to_noise_schedule,
)
from diffusion_jax.chain import _at_rows as at_rows_of
from diffusion_jax.chain import make_grid, make_reverse
from diffusion_jax.config import DiffusionConfig, ExperimentConfig, SampleConfig
from diffusion_jax.errors import UserError
from diffusion_jax.keys import stream
from diffusion_jax.losses import ByPosition, Draws, LossTerms, cross_entropy_loss, diffusion_loss
from diffusion_jax.models.base import Model
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.schedules import make_schedule
from diffusion_jax.timesteps import adaptive_positions, uniform
from diffusion_jax.train.optimizer import make_optimizer
from diffusion_jax.train.state import init_state
from diffusion_jax.train.step import make_train_step
from diffusion_jax.types import RoundingHead

T, POSITIONS, LENGTH, VOCAB = 200, 3, 4, 5
SCHEDULE = make_schedule("sqrt", T)
MASK = jnp.array([[False, True, True, True], [False, False, True, True]])
START = init_position_schedules(SCHEDULE, POSITIONS)
TABLE = jnp.eye(VOCAB)
MODEL = Model(
    init=lambda key: {"scale": jnp.ones(())},
    embed=lambda params, ids: TABLE[ids],
    head=lambda params: RoundingHead(TABLE, jnp.zeros(VOCAB)),
    denoise=lambda params, x_t, time, self_cond=None, dropout_key=None: params["scale"] * x_t,
    logical_axes=dict,
)


def test_positions_count_from_the_start_of_the_target():
    np.testing.assert_array_equal(positions_in_target(MASK), [[0, 0, 1, 2], [0, 0, 0, 1]])


def test_every_position_starts_on_the_named_schedule():
    t = jnp.array([7, 199])
    want = np.broadcast_to(SCHEDULE.alphas_cumprod[np.asarray(t)][:, None], (2, LENGTH))
    np.testing.assert_allclose(levels(START, t, MASK), want, rtol=1e-6)


def loss_at(alpha_bar):
    """A made-up loss: harder positions need less noise to be as hard."""
    return 1.0 - alpha_bar ** jnp.array([[1.0, 2.0, 0.5]])


def learned(adapt_every=1):
    """Show three steps of every timestep's loss to the schedules, the last of which moves them."""
    t = jnp.arange(T)
    mask = jnp.ones((T, POSITIONS), bool)
    watch = jax.jit(partial(observe, adapt_every=adapt_every))
    state = START
    for _ in range(3):
        state = watch(state, t, 40.0 * loss_at(state.alphas_cumprod), mask)
    return state


def test_moved_schedules_make_the_loss_rise_linearly():
    state = learned()
    losses = np.asarray(loss_at(state.alphas_cumprod))
    for position in (1, 2):
        line = np.linspace(losses[0, position], losses[-1, position], T)
        np.testing.assert_allclose(losses[:, position], line, atol=0.03)
        assert np.abs(loss_at(START.alphas_cumprod)[:, position] - line).max() > 0.1
    np.testing.assert_array_equal(state.alphas_cumprod[:, 0], START.alphas_cumprod[:, 0])
    ends = np.asarray([0, -1])
    np.testing.assert_allclose(state.alphas_cumprod[ends], START.alphas_cumprod[ends], rtol=1e-6)
    # The next schedules learn from new losses alone.
    np.testing.assert_array_equal(state.counts, START.counts)


def test_schedules_move_after_three_strides_and_then_every_stride():
    state = learned(adapt_every=2)
    np.testing.assert_array_equal(state.alphas_cumprod, START.alphas_cumprod)
    assert float(state.counts.sum()) == float(START.counts.sum()) + 3 * T * POSITIONS


def test_given_positions_are_not_counted():
    state = observe(START, jnp.array([0, 150]), jnp.ones((2, LENGTH)), MASK, adapt_every=9)
    added = np.asarray(state.counts - START.counts)
    np.testing.assert_array_equal(added[0], [1, 1, 1])
    np.testing.assert_array_equal(added[75], [1, 1, 0])
    assert added.sum() == MASK.sum()


def test_chains_get_schedules_that_always_lose_signal():
    flat = START._replace(alphas_cumprod=START.alphas_cumprod.at[50:60].set(0.4))
    tables = to_noise_schedule(flat, SCHEDULE)
    assert tables.betas.shape == (T, POSITIONS)
    assert np.all(tables.betas > 0)
    np.testing.assert_allclose(
        to_noise_schedule(START, SCHEDULE).alphas_cumprod[:, 1], SCHEDULE.alphas_cumprod, rtol=1e-4
    )


@pytest.mark.parametrize("objective", [diffusion_loss, cross_entropy_loss])
def test_the_loss_noises_by_position_and_tells_the_error_of_each(objective):
    ids, t = jnp.array([[1, 2, 3, 4], [4, 3, 2, 1]]), jnp.array([20, 90])
    draws = Draws(*jax.random.normal(jax.random.key(0), (2, 2, LENGTH, VOCAB)))
    call = partial(
        objective, None, MODEL, {"scale": 0.7}, SCHEDULE, ids, MASK, t, positions="all", draws=draws
    )
    plain = call()
    same = call(alpha_bar=levels(START, t, MASK), by_position=True)
    assert isinstance(same, ByPosition)
    np.testing.assert_allclose(same.total(), plain.total(), rtol=1e-5)
    np.testing.assert_allclose(same.by_position.mean(-1), plain[0], rtol=1e-5)
    # Another level at one position changes that position's error alone.
    other = call(alpha_bar=levels(START, t, MASK).at[0, 2].set(0.9), by_position=True)
    changed = np.abs(other.by_position - same.by_position) > 1e-4
    np.testing.assert_array_equal(np.argwhere(changed), [[0, 2]])


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_the_training_step_tells_the_loss_and_learns_from_it(num_microbatches):
    sampler = adaptive_positions(uniform(T), SCHEDULE, POSITIONS, adapt_every=9)

    def loss_fn(params, key, batch, t, dropout_key):
        by_position = batch["alpha_bar"] * jnp.arange(4.0)[None, :]
        zeros = jnp.zeros(t.shape)
        return ByPosition(LossTerms(params["w"] ** 2 + zeros, zeros, zeros, zeros), by_position)

    optimizer = make_optimizer(1e-3, 10)
    state = init_state({"w": jnp.ones(())}, optimizer, timestep_state=sampler.init())
    step = make_train_step(
        loss_fn, optimizer, sampler, num_timesteps=T, num_microbatches=num_microbatches
    )
    after, metrics = jax.jit(step)(state, {"noise_mask": MASK}, jax.random.key(3))
    added = after.timestep_state.positions.losses - START.losses
    key = jax.random.key(3)

    t, _ = sampler.sample(stream(key, "timesteps", 0), state.timestep_state, 2)
    want = levels(START, t, MASK) * jnp.arange(4.0)[None, :] * MASK
    np.testing.assert_allclose(added.sum(), want.sum(), rtol=1e-4)
    assert "by_position" not in metrics


def test_a_chain_looks_up_the_noise_of_every_position():
    tables = to_noise_schedule(learned(), SCHEDULE)
    grid = make_grid(SampleConfig(steps=5, sampler="ddim"), tables)
    assert grid.alpha_bar.shape == (5, POSITIONS)
    assert grid.time.shape == (5,)
    step = jax.tree.map(lambda field: jnp.asarray(field[1]), grid)
    info = at_rows_of(grid, MASK)(step)
    want = tables.alphas_cumprod[int(grid.t[1])][np.asarray(positions_in_target(MASK))]
    np.testing.assert_allclose(info.alpha_bar[..., 0], want, rtol=1e-5)
    assert info.t.shape == ()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_equal_schedules_are_one_schedule(sampler):
    """A chain with the named schedule at every position writes what the shared one writes."""
    options = SampleConfig(steps=4, sampler=sampler, clamp="none")
    spec = DenoiserConfig(vocab_size=VOCAB, embed_dim=VOCAB)
    ids = jnp.array([[1, 0, 0, 0], [2, 3, 0, 0]])
    written = [
        make_reverse(MODEL, spec, schedule, options)(
            {"scale": 0.7}, jax.random.split(jax.random.key(1), 2), ids, MASK
        )
        for schedule in (SCHEDULE, to_noise_schedule(START, SCHEDULE))
    ]
    np.testing.assert_array_equal(*written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "dpm++"}, "ddim"),
        ({"spacing": "log_snr"}, "a spacing in time"),
    ],
)
def test_chains_that_need_one_noise_level_are_refused(changes, message):
    adaptive = ExperimentConfig(diffusion=DiffusionConfig(position_schedule="adaptive"))
    with pytest.raises(UserError, match=message):
        replace(adaptive, sample=SampleConfig(**changes))


def test_adaptive_positions_exclude_one_noise_level():
    for options in ({"clip_noise": "auto"}, {"min_timestep": 3}, {"timestep_sampler": "time_warp"}):
        with pytest.raises(UserError, match="adaptive"):
            DiffusionConfig(position_schedule="adaptive", **options)
