"""Guidance by Adagrad: the algebra of its updates, and how it goes with the rest of a chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.guidance import (
    adagrad_guidance,
    estimate_posterior,
    fixed_embeddings,
    fixed_words,
    latent_posterior,
    on_estimate,
    on_latent,
    weighted_sum,
)
from diffusion_jax.guidance.adagrad import adagrad_update
from diffusion_jax.keys import per_example
from diffusion_jax.rounding import nearest_embedding
from diffusion_jax.samplers import Anchor, clamp_to_embeddings, ddim, ddpm, sample, step_grid
from diffusion_jax.schedules import make_schedule
from diffusion_jax.types import RoundingHead, StepInfo, StepOutput

SCHEDULE = make_schedule("sqrt", 20)
GRID = step_grid(SCHEDULE)
SHAPE = (3, 4, 5)
EMBEDDING = jax.random.normal(jax.random.key(5), (7, SHAPE[-1]))
SLOPE = jax.random.normal(jax.random.key(6), SHAPE)
LEARNING_RATE = 0.1


def denoise(x_t, time, self_cond=None):
    """Return a toy estimate that depends on all its arguments and mixes positions."""
    mixed = jnp.tanh(x_t + 0.3 * jnp.roll(x_t, 1, axis=1)) * (1 - time[:, None, None] / 2000)
    return mixed if self_cond is None else mixed + 0.1 * self_cond


def slope(x, info, output):
    return jnp.sum(SLOPE * x, axis=(1, 2))


def info_at(t):
    return StepInfo(*(jnp.asarray(field[SCHEDULE.num_timesteps - 1 - t]) for field in GRID))


def apply_at(guide, t, x, *, mean=0.0, sigma=0.5, state=None):
    output = StepOutput(x, jnp.broadcast_to(mean, x.shape), jnp.float32(sigma))
    keys = per_example(jax.random.key(0), jnp.arange(len(x)))
    state = guide.init(x) if state is None else state
    return jax.jit(guide.apply)(keys, x, state, info_at(t), output)


def run(key, shape=SHAPE, **options):
    chain = jax.jit(lambda key: sample(key, denoise, ddpm(), GRID, shape, **options))
    return chain(key).x_start


def test_a_fresh_update_is_the_sign_of_the_gradient():
    x, accumulator = adagrad_update(jnp.zeros(SHAPE), jnp.zeros(SHAPE), SLOPE, LEARNING_RATE)
    np.testing.assert_allclose(x, LEARNING_RATE * np.sign(SLOPE), rtol=1e-6)
    np.testing.assert_allclose(accumulator, SLOPE**2, rtol=1e-6)


def test_eps_is_outside_the_root():
    gradient = jnp.float32(1e-10)
    x, _ = adagrad_update(jnp.float32(0), jnp.float32(0), gradient, 1.0)
    np.testing.assert_allclose(x, 1e-10 / (np.sqrt(np.float32(1e-20)) + 1e-10), rtol=1e-3)


@pytest.mark.parametrize(
    ("reset", "lengths"),
    [
        ("update", [1, 1, 1, 1]),
        ("step", [1, 2**-0.5, 1, 2**-0.5]),
        ("never", [1, 2**-0.5, 3**-0.5, 4**-0.5]),
    ],
)
def test_when_the_accumulator_starts_again(reset, lengths):
    guide = adagrad_guidance(slope, num_updates=2, fluency_weight=0.0, reset=reset)
    x, state = apply_at(guide, 15, jnp.zeros(SHAPE))
    x, _ = apply_at(guide, 14, x, state=state)
    np.testing.assert_allclose(x, sum(lengths) * LEARNING_RATE * np.sign(SLOPE), rtol=1e-5)


def test_no_updates_are_no_guidance(key):
    plain = run(key)
    np.testing.assert_array_equal(run(key, guidance=adagrad_guidance(slope, num_updates=0)), plain)
    assert np.any(run(key, guidance=adagrad_guidance(slope)) != plain)


@pytest.mark.parametrize(
    ("window", "moved"),
    [({}, [10, 19]), ({"min_t": None}, [0, 9, 10, 19]), ({"min_t": None, "max_t": 9}, [0, 9])],
)
def test_window(window, moved):
    guide = adagrad_guidance(slope, num_updates=1, **window)
    x = jnp.zeros(SHAPE)
    steps = [t for t in (0, 9, 10, 19) if np.any(apply_at(guide, t, x)[0] != x)]
    assert steps == moved


@pytest.mark.parametrize("sigma", [0.5, 0.0])
def test_updates_end_at_the_mode(sigma):
    """Where wish and fluency are quadratic, the mode is their weighted mean."""
    wanted, mean, weight = 1.0, jnp.asarray(SLOPE), 0.3

    def near(x, time):
        return -jnp.sum(jnp.square(x - wanted), axis=(1, 2))

    guide = adagrad_guidance(
        on_latent(near), num_updates=400, fluency_weight=weight, reset="step", learning_rate=0.5
    )
    x, _ = apply_at(guide, 15, jnp.zeros(SHAPE), mean=mean, sigma=sigma)
    pull = weight / (sigma or 1.0)
    np.testing.assert_allclose(x, (wanted + pull * mean) / (1 + pull), rtol=0, atol=1e-3)


def everything(rows):
    """Return the options of a chain with every part in use, for some rows of the batch."""
    head = RoundingHead(EMBEDDING, jnp.zeros(len(EMBEDDING)))
    input_ids = jnp.asarray([[1, 2, 3, 4], [4, 4, 0, 6], [5, 1, 0, 2]])[rows]
    known_mask = jnp.asarray([[1, 1, 0, 1], [1, 0, 0, 1], [0, 1, 1, 1]], bool)[rows]
    anchor = Anchor(EMBEDDING[input_ids] / 2, jnp.ones(known_mask.shape, bool).at[:, 3].set(False))
    objective = weighted_sum(
        (1.0, fixed_words(latent_posterior(EMBEDDING), input_ids, known_mask)),
        (0.5, fixed_words(estimate_posterior(head, denoise), input_ids, known_mask)),
        (0.2, fixed_embeddings(denoise, EMBEDDING[input_ids], known_mask, self_condition=True)),
    )
    guide = adagrad_guidance(objective, reset="never", min_t=5, noise_scale=0.1, anchor=anchor)
    return {
        "clamp": clamp_to_embeddings(EMBEDDING, max_t=4),
        "anchor": anchor,
        "guidance": guide,
        "self_condition": True,
    }


@pytest.fixture(scope="module")
def compiled():
    """Return the chain of ``everything``, compiled, and its keys."""
    keys = per_example(jax.random.key(0), jnp.arange(SHAPE[0]))
    options = everything(slice(None))
    chain = jax.jit(lambda keys: sample(keys, denoise, ddpm(), GRID, SHAPE, **options).x_start)
    return chain.lower(keys).compile(), keys


def test_a_batch_is_its_examples_one_by_one(compiled):
    chain, keys = compiled
    part = slice(1, 2)
    alone = run(keys[part], shape=(1, *SHAPE[1:]), **everything(part))
    np.testing.assert_allclose(alone, chain(keys)[part], rtol=0, atol=1e-5)


def test_nothing_crosses_to_the_host(compiled):
    chain, keys = compiled
    assert "callback" not in chain.as_text()
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(chain(keys))


def exact_denoise(x_t, time, self_cond=None):
    """Return E[x_start | x_t] where every token is equally likely."""
    index = jnp.round(time[0] * SCHEDULE.num_timesteps / 1000).astype(int)
    alpha_bar = jnp.asarray(SCHEDULE.alphas_cumprod, jnp.float32)[index]
    distance = jnp.square(x_t[..., None, :] - jnp.sqrt(alpha_bar) * EMBEDDING[None, None])
    return jax.nn.softmax(-0.5 * jnp.sum(distance, axis=-1) / (1 - alpha_bar)) @ EMBEDDING


@pytest.mark.parametrize("sampler", [ddpm(), ddim(), ddim(eta=1.0)], ids=["ddpm", "ddim0", "ddim1"])
def test_it_steers_any_sampler(key, sampler):
    input_ids = jnp.asarray([[1, 2, 3, 4]] * SHAPE[0])
    objective = fixed_words(latent_posterior(EMBEDDING), input_ids, jnp.ones(SHAPE[:2], bool))

    @jax.jit
    def words(key, wanted):
        guide = adagrad_guidance(weighted_sum((wanted, objective)), min_t=1, fluency_weight=1e-4)
        result = sample(
            key,
            exact_denoise,
            sampler,
            GRID,
            SHAPE,
            clamp=clamp_to_embeddings(EMBEDDING),
            guidance=guide,
        )
        return nearest_embedding(result.x_start, EMBEDDING)[0]

    assert np.mean(words(key, 1.0) == input_ids) > 0.9
    assert np.mean(words(key, 0.0) == input_ids) < 0.5


def test_time_labels():
    """A classifier sees the state after the step, and is told so."""
    seen = {}

    def log_prob(name):
        def record(x, time):
            seen[name] = float(time[0])
            return jnp.sum(x, axis=(1, 2))

        return record

    def network(x_t, time, self_cond=None):
        seen["network"], seen["self_cond"] = float(time[0]), self_cond
        return x_t

    info, x = info_at(15), jnp.zeros(SHAPE)
    output = StepOutput(x + 1, x, jnp.float32(0.5))
    on_latent(log_prob("latent"))(x, info, output)
    on_estimate(log_prob("estimate"), network, self_condition=True)(x, info, output)
    assert seen["latent"] == seen["network"] == SCHEDULE.model_timesteps[14]
    assert seen["estimate"] == 0.0
    assert seen["self_cond"] is output.pred_x_start
    # A classifier of estimates is told how noisy the state was.
    on_estimate(log_prob("told"), network, tell_time=True)(x, info, output)
    assert seen["told"] == SCHEDULE.model_timesteps[14]
    assert seen["self_cond"] is None


def test_gradients_flow_through_the_denoiser_by_choice():
    """The toy mixes neighbours, so wishing at one position moves the one before it, too."""

    def first(x, time):
        return jnp.sum(x[:, 1], axis=-1)

    x = jnp.zeros(SHAPE)
    options = {"num_updates": 1, "fluency_weight": 0.0}
    alone, _ = apply_at(adagrad_guidance(on_latent(first), **options), 15, x)
    through, _ = apply_at(adagrad_guidance(on_estimate(first, denoise), **options), 15, x)
    np.testing.assert_array_equal(np.any(alone != 0, axis=(0, 2)), [False, True, False, False])
    np.testing.assert_array_equal(np.any(through != 0, axis=(0, 2)), [True, True, False, False])


def test_anchored_positions_are_seen_as_they_are_kept():
    anchor = Anchor(jnp.full(SHAPE, 2.0), jnp.ones(SHAPE[:2], bool).at[:, 0].set(False))

    def uphill_if_kept(x, time):
        return jnp.sum(x[:, 0], axis=-1) * jnp.sum(x[:, 1:], axis=(1, 2))

    options = {"num_updates": 1, "fluency_weight": 0.0}
    guide = adagrad_guidance(on_latent(uphill_if_kept), anchor=anchor, **options)
    x, _ = apply_at(guide, 15, jnp.full(SHAPE, -1.0))
    np.testing.assert_allclose(x[:, 0], -1.0)
    np.testing.assert_allclose(x[:, 1:], -0.9, rtol=1e-6)


def test_langevin_noise_has_the_scale_of_the_step():
    def nothing(x, info, output):
        return jnp.zeros(len(x))

    guide = adagrad_guidance(nothing, num_updates=4, fluency_weight=0.0, noise_scale=0.3)
    x, _ = apply_at(guide, 15, jnp.zeros((2, 50, 100)), sigma=0.5)
    # Four independent draws; five standard errors of 10000 numbers.
    std = 2 * 0.3 * 0.5
    assert abs(x.std() - std) < 5 * std / np.sqrt(2 * x.size)
    assert abs(np.corrcoef(x[0].ravel(), x[1].ravel())[0, 1]) < 5 / np.sqrt(x[0].size)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"num_updates": -1},
        {"num_updates": 1.5},
        {"fluency_weight": -1.0},
        {"reset": "always"},
        {"noise_scale": -0.1},
        {"min_t": 11, "max_t": 10},
    ],
)
def test_bad_arguments(options):
    with pytest.raises(UserError, match=str(next(reversed(options.values())))):
        adagrad_guidance(slope, **options)


def test_an_objective_of_the_wrong_shape_is_named():
    guide = adagrad_guidance(lambda x, info, output: jnp.sum(x))
    with pytest.raises(ValueError, match="objective"):
        apply_at(guide, 15, jnp.zeros(SHAPE))
