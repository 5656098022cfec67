"""Noise-scale clipping, time warping and cross-entropy on token posteriors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.config import (
    DiffusionConfig,
    ExperimentConfig,
    SampleConfig,
)
from diffusion_jax.errors import UserError
from diffusion_jax.forward import q_sample, sample_x_start
from diffusion_jax.losses import Draws, cross_entropy_loss
from diffusion_jax.models.base import bind
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.models.transformer import transformer_denoiser
from diffusion_jax.program import Program
from diffusion_jax.rounding import logits
from diffusion_jax.samplers import step_grid
from diffusion_jax.schedules import extract, make_schedule
from diffusion_jax.timesteps import (
    clip_timesteps,
    lowest_timestep,
    time_warp,
    warp_cumulative,
)

T = 40
SCHEDULE = make_schedule("sqrt", T)
SPEC = DenoiserConfig(
    vocab_size=13,
    embed_dim=6,
    hidden_dim=8,
    num_layers=1,
    num_heads=1,
    mlp_dim=8,
    max_length=5,
    time_dim=4,
    dropout=0.0,
    attention_dropout=0.0,
    remat="none",
    self_conditioning=True,
    readout="posterior",
    normalize_embedding=True,
)
MODEL = transformer_denoiser(SPEC)
# Compiled once for all tests.
MODEL = MODEL._replace(denoise=jax.jit(MODEL.denoise))
IDS = jax.random.randint(jax.random.key(1), (3, 5), 0, 13)
MASK = jnp.arange(5)[None, :] >= jnp.array([[0], [1], [3]])
DRAWS = Draws(*jax.random.normal(jax.random.key(2), (2, 3, 5, 6)))
STEPS = jnp.array([0, 17, 39])


@pytest.fixture(scope="module")
def params():
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0.0, 0.7, leaf.shape), jnp.float32),
        jax.eval_shape(MODEL.init, jax.random.key(0)),
    )


def program(**diffusion):
    options = DiffusionConfig(timesteps=T, **diffusion)
    return Program.build(
        ExperimentConfig(model=SPEC, diffusion=options, sample=SampleConfig(steps=2))
    )


def test_normalised_embeddings_have_one_length_wherever_they_are_used(params):
    lengths = jnp.linalg.norm(MODEL.embed(params, IDS), axis=-1)
    np.testing.assert_allclose(lengths, np.sqrt(6), rtol=1e-5)
    np.testing.assert_array_equal(MODEL.embed(params, IDS), MODEL.head(params).weight[IDS])


def test_the_estimate_is_the_mean_embedding_under_the_posterior(params):
    x_t = jax.random.normal(jax.random.key(3), (3, 5, 6))
    time = jnp.full((3,), 100.0)
    head = MODEL.head(params)
    scores = logits(head, MODEL.denoise(params, x_t, time))
    for temperature in (1.0, 0.3):
        estimate = bind(MODEL, params, temperature=temperature)(x_t, time)
        want = jax.nn.softmax(scores / temperature) @ head.weight
        np.testing.assert_allclose(estimate, want, rtol=1e-4, atol=1e-5)


def test_a_temperature_needs_logits(params):
    vectors = transformer_denoiser(dataclasses.replace(SPEC, readout="vector"))
    with pytest.raises(UserError, match="token posterior"):
        vectors.read(params, jnp.zeros((1, 5, 6)), temperature=0.5)


@pytest.mark.parametrize("positions", ["all", "target"])
def test_cross_entropy_is_that_of_the_words_given_the_noisy_latent(params, positions):
    """Written out, with self-conditioning on the posterior mean in the first example."""
    draws = DRAWS._replace(self_cond_mask=jnp.array([True, False, False]))
    got = cross_entropy_loss(
        None, MODEL, params, SCHEDULE, IDS, MASK, STEPS, positions=positions, draws=draws
    )

    head = MODEL.head(params)
    x_start = sample_x_start(None, SCHEDULE, MODEL.embed(params, IDS), noise=draws.x_start_noise)
    x_t = q_sample(None, SCHEDULE, x_start, STEPS, MASK, noise=draws.q_noise)
    time = extract(SCHEDULE.model_timesteps, STEPS, 1)
    first = jax.nn.softmax(logits(head, MODEL.denoise(params, x_t, time))) @ head.weight
    own = jnp.where(draws.self_cond_mask[:, None, None], first, 0.0)
    scores = jax.nn.log_softmax(logits(head, MODEL.denoise(params, x_t, time, own)))
    nll = -jnp.take_along_axis(scores, IDS[..., None], axis=-1)[..., 0]
    weights = MASK / MASK.sum(-1, keepdims=True) if positions == "target" else 1 / 5
    np.testing.assert_allclose(got.cross_entropy, (nll * weights).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(got.total(), got.cross_entropy + got.prior, rtol=1e-6)


def test_clipping_moves_timesteps_upwards_in_order():
    t = jnp.arange(T)
    np.testing.assert_array_equal(clip_timesteps(t, 0, T), t)
    moved = np.asarray(clip_timesteps(t, 11, T))
    assert moved[0] == 11
    assert moved[-1] == T - 1
    assert set(moved) == set(range(11, T))
    assert np.all(np.diff(moved) >= 0)


def test_the_learned_clip_is_where_noise_reaches_the_neighbours():
    """Two words at distance d in 4 coordinates: noise variance d^2 / 4 relative to the signal."""
    distance = 1.5
    table = jnp.zeros((2, 4)).at[1, 2].set(distance)
    lowest = int(lowest_timestep(SCHEDULE, table))
    ratio = SCHEDULE.one_minus_alphas_cumprod / SCHEDULE.alphas_cumprod
    assert ratio[lowest - 1] < distance**2 / 4 <= ratio[lowest]
    assert int(lowest_timestep(SCHEDULE, 1e6 * table)) == T - 2


@pytest.mark.parametrize("options", [{"min_timestep": 25}, {"clip_noise": "auto"}])
def test_training_sees_no_timestep_below_the_clip(params, options):
    """The loss at t is that of the unclipped loss at the timestep that t is moved to."""
    clipped = program(**options, objective="cross_entropy")
    plain = program(objective="cross_entropy")
    batch = {"input_ids": IDS, "noise_mask": MASK}
    lowest = 25 if "min_timestep" in options else lowest_timestep(SCHEDULE, MODEL.head(params)[0])
    moved = clip_timesteps(STEPS, lowest, T)
    assert int(moved[0]) == int(lowest) > 0
    got, want = (
        jax.jit(p.loss)(params, jax.random.key(4), batch, t, None)
        for p, t in ((clipped, STEPS), (plain, moved))
    )
    np.testing.assert_allclose(got.cross_entropy, want.cross_entropy, rtol=1e-5)


def test_chains_end_at_the_clip(params):
    """The way from T - 1 to the clip is the trained one, and clean data comes next."""
    lowest = int(lowest_timestep(SCHEDULE, MODEL.head(params).weight))
    for options, low in (({"min_timestep": 25}, 25), ({"clip_noise": "auto"}, lowest)):
        schedule = program(**options).chain_schedule(params, ())
        np.testing.assert_allclose(schedule.alphas_cumprod, SCHEDULE.alphas_cumprod[low:])
        np.testing.assert_array_equal(schedule.model_timesteps, SCHEDULE.model_timesteps[low:])
        grid = step_grid(schedule, 3)
        assert grid.alpha_bar_prev[-1] == 1


def test_an_unclipped_unwarped_chain_runs_on_the_published_schedule(params):
    ours = program()
    assert ours.chain_schedule(params, ()) is ours.schedule


def losses_of(curve, bins=20, noise=0.0):
    """Return what a time_warp sampler knows after many losses drawn from a curve over [0, 1]."""
    sampler = time_warp(T, bins=bins)
    t = jnp.tile(jnp.arange(T), 50)
    noise = noise * jax.random.normal(jax.random.key(9), t.shape)
    return sampler, sampler.update(sampler.init(), t, curve((t + 0.5) / T) + noise)


def test_warped_timesteps_follow_the_slope_of_the_loss(key):
    sampler, state = losses_of(lambda u: jnp.where(u < 0.5, 0.1, 0.1 + 8 * (u - 0.5)))
    t, weights = sampler.sample(key, state, 4000)
    np.testing.assert_array_equal(weights, 1.0)
    # All of the rise lies in the upper half; a tenth of the draws is uniform.
    assert abs(np.mean(np.asarray(t) >= T // 2) - 0.95) < 0.04
    assert np.asarray(t).min() < 3


def test_the_expected_loss_is_linear_in_warped_time():
    sampler, state = losses_of(lambda u: 3 * u**3, bins=40)
    quantiles = np.linspace(0.0, 1.0, 11)
    cumulative = np.asarray(warp_cumulative(state, 1e-6))
    position = np.interp(quantiles, cumulative, np.linspace(0, 1, 41))
    np.testing.assert_allclose(3 * position[1:] ** 3, 3 * quantiles[1:], atol=0.08)
    assert np.all(np.diff(sampler.warp(state, quantiles)) > 0)


def test_warping_is_uniform_before_every_bin_has_a_loss(key):
    sampler = time_warp(T, bins=8)
    half = sampler.update(sampler.init(), jnp.arange(T // 2), jnp.arange(T // 2) / 1.0)
    np.testing.assert_allclose(warp_cumulative(half, 0.1), np.linspace(0, 1, 9), rtol=1e-6)
    t, _ = sampler.sample(key, half, T)
    assert set(np.asarray(t)) == set(range(T))


def test_old_losses_are_forgotten():
    sampler = time_warp(T, bins=4, memory=10)
    everywhere = jnp.tile(jnp.arange(T), 3)
    state = sampler.update(sampler.init(), everywhere, jnp.full(everywhere.shape, 9.0))
    for _ in range(10):
        state = sampler.update(state, everywhere, jnp.ones(everywhere.shape))
    np.testing.assert_allclose(state.losses / state.weights, 1.0, atol=1e-3)


def test_chains_step_through_warped_time():
    """Equal steps of the chain are equal rises of the loss, from T - 1 down to the clip."""
    sampler, state = losses_of(lambda u: 3 * u**3, bins=40)
    warped = program(timestep_sampler="time_warp", min_timestep=8)
    schedule = warped.chain_schedule({}, state)
    ends = np.asarray([8, T - 1])
    np.testing.assert_allclose(schedule.alphas_cumprod[[0, -1]], SCHEDULE.alphas_cumprod[ends])
    np.testing.assert_allclose(schedule.model_timesteps[[0, -1]], SCHEDULE.model_timesteps[ends])
    step = schedule.model_timesteps[15]
    quantile = 15 / (T - 8 - 1)
    where = 8 + sampler.warp(state, np.array([quantile]))[0] * (T - 1 - 8)
    np.testing.assert_allclose(step, where * 1000 / T)


def test_unknown_objectives_are_refused_before_anything_runs():
    with pytest.raises(UserError, match="readout posterior"):
        ExperimentConfig(diffusion=DiffusionConfig(objective="cross_entropy"))
    with pytest.raises(UserError, match="temperature"):
        ExperimentConfig(sample=SampleConfig(temperature=0.5))
    with pytest.raises(UserError, match="nll_input"):
        DiffusionConfig(objective="cross_entropy", nll_input="prediction")
    with pytest.raises(UserError, match="no squared error"):
        DiffusionConfig(objective="cross_entropy", snr_weight=1.0)
    with pytest.raises(UserError, match=r"diffusion.snr_weight.*0 \(off\) or more"):
        DiffusionConfig(snr_weight=-1.0)
    with pytest.raises(UserError, match="left alone without diffusion"):
        DiffusionConfig(snr_clip=2.0)
    with pytest.raises(UserError, match=r"less diffusion\.min_timestep = 1900"):
        ExperimentConfig(diffusion=DiffusionConfig(min_timestep=1900))
