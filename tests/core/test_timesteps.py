"""Properties of the timestep samplers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.errors import UserError
from diffusion_jax.timesteps import (
    fixstep,
    loss_aware,
    loss_aware_probabilities,
    make_timestep_sampler,
    stratified,
    uniform,
)

T = 50
NAMES = ["uniform", "stratified", "fixstep", "loss_aware"]


def warm(sampler, losses_of_t):
    """Fill the history of every timestep with its own loss."""
    state = sampler.init()
    t = jnp.arange(T, dtype=jnp.int32)
    for _ in range(10):
        state = sampler.update(state, t, losses_of_t)
    return state


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_timesteps(name, key):
    sampler = make_timestep_sampler(name, T)
    t, weights = jax.jit(sampler.sample, static_argnums=2)(key, sampler.init(), 64)
    assert t.shape == weights.shape == (64,)
    assert t.dtype == jnp.int32
    assert weights.dtype == jnp.float32
    assert t.min() >= 0
    assert t.max() < T


@pytest.mark.parametrize("name", NAMES)
def test_the_weighted_mean_is_unbiased(name, key):
    """The mean of ``weight * f(t)`` is the plain mean of f, within 5 standard errors."""
    sampler = make_timestep_sampler(name, T)
    values = jnp.linspace(0.5, 3.0, T) ** 2
    state = warm(sampler, values)
    t, weights = sampler.sample(key, state, 20_000)
    products = weights * values[t]
    error = float(jnp.std(products)) / np.sqrt(20_000)
    assert abs(float(products.mean() - values.mean())) < 5 * error + 1e-3


def test_loss_aware_draws_in_proportion_to_the_loss(key):
    sampler = loss_aware(T)
    losses = jnp.linspace(1.0, 4.0, T)
    state = warm(sampler, losses)
    probabilities = loss_aware_probabilities(state, 1e-3)
    np.testing.assert_allclose(probabilities.sum(), 1.0, rtol=1e-6)
    want = 0.999 * losses / losses.sum() + 1e-3 / T
    np.testing.assert_allclose(probabilities, want, rtol=1e-5)
    t, weights = sampler.sample(key, state, 50_000)
    counts = np.bincount(np.asarray(t), minlength=T)
    np.testing.assert_allclose(counts / 50_000, want, atol=5 * np.sqrt(0.04 / 50_000))
    np.testing.assert_allclose(weights, 1.0 / (T * np.asarray(want)[t]), rtol=1e-4)


def test_loss_aware_is_uniform_until_every_timestep_is_warm():
    sampler = loss_aware(T)
    state = warm(sampler, jnp.linspace(1.0, 4.0, T))
    cold = state._replace(counts=state.counts.at[7].set(9))
    np.testing.assert_allclose(loss_aware_probabilities(cold, 1e-3), jnp.full((T,), 1.0 / T))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=12, max_size=12), min_size=1, max_size=4))
def test_history_is_first_in_first_out_also_within_a_batch(batches):
    """Batches of 12 over 3 timesteps of history 4: duplicates overtake each other."""
    sampler = loss_aware(3, history=4)
    state, queues, loss = sampler.init(), {0: [], 1: [], 2: []}, 0.0
    for batch in batches:
        losses = [loss + i for i in range(len(batch))]
        loss += len(batch)
        state = sampler.update(state, jnp.array(batch, jnp.int32), jnp.array(losses))
        for t, value in zip(batch, losses):
            queues[t].append(value)
    for t, queue in queues.items():
        assert int(state.counts[t]) == len(queue)
        held = np.asarray(state.losses[t])[: len(queue)]
        assert sorted(held) == queue[-4:]


def test_stratified_covers_the_range_evenly():
    sampler = stratified(64)
    for seed in range(5):
        t, _ = sampler.sample(jax.random.key(seed), (), 64)
        # One draw per stratum; float32 rounding at the edges may move one of them by one.
        assert len(np.unique(t)) >= 63
        t, _ = sampler.sample(jax.random.key(seed), (), 8)
        counts = np.bincount(np.asarray(t) // 8, minlength=8)
        np.testing.assert_array_equal(counts, np.ones(8))


def test_stratified_is_uniform_for_each_example():
    keys = jax.random.split(jax.random.key(1), 20_000)
    t = jax.vmap(lambda key: stratified(10).sample(key, (), 3)[0])(keys)
    for example in range(3):
        counts = np.bincount(np.asarray(t[:, example]), minlength=10)
        np.testing.assert_allclose(counts / 20_000, 0.1, atol=5 * np.sqrt(0.09 / 20_000))


def test_fixstep_odd_number_of_timesteps(key):
    t, _ = fixstep(3).sample(key, (), 4000)
    counts = np.bincount(np.asarray(t), minlength=3) / 4000
    np.testing.assert_allclose(counts, [0.5, 0.25, 0.25], atol=0.04)


def test_stateless_samplers_learn_nothing():
    for sampler in (uniform(T), stratified(T), fixstep(T)):
        state = sampler.init()
        assert sampler.update(state, jnp.zeros(4, jnp.int32), jnp.ones(4)) == state


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_timestep_sampler("lossaware", T), "choose one of uniform, stratified"),
        (lambda: uniform(0), "at least 1"),
        (lambda: loss_aware(T, history=0), "history=0"),
        (lambda: loss_aware(T, uniform_prob=1.0), "uniform_prob=1.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
