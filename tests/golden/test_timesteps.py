"""The loss-aware timestep sampler against the originals', update by update, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.timesteps import _invert, fixstep, loss_aware, loss_aware_probabilities
from tests.golden.torch_params import DATA


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(DATA / "lossaware.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def oldest_first(state) -> np.ndarray:
    """Unroll the rings [T, H]."""
    width = state.losses.shape[1]
    start = np.where(state.counts >= width, state.counts % width, 0)
    columns = (start[:, None] + np.arange(width)) % width
    return np.take_along_axis(np.asarray(state.losses), columns, axis=1)


def test_history_and_weights(golden, x64):
    num_timesteps = int(golden["num_timesteps"])
    history, uniform_prob = int(golden["history_per_term"]), float(golden["uniform_prob"])
    sampler = loss_aware(num_timesteps, history=history, uniform_prob=uniform_prob)
    update = jax.jit(sampler.update)
    state = sampler.init()
    rows = zip(golden["ts"], golden["losses"], golden["weights"], golden["counts"])
    for t, losses, weights, counts in rows:
        state = update(state, jnp.asarray(t), jnp.asarray(losses))
        np.testing.assert_array_equal(np.minimum(state.counts, history), counts)
        probabilities = loss_aware_probabilities(state, uniform_prob)
        np.testing.assert_allclose(probabilities, weights / weights.sum(), rtol=1e-12)
    np.testing.assert_allclose(oldest_first(state), golden["history"], rtol=1e-15)
    assert golden["warmed_up"].any()
    assert not golden["warmed_up"].all()


@pytest.mark.parametrize("kind", ["sample", "uniform"])
def test_draws(golden, x64, kind):
    """numpy's ``choice`` inverts the cumulative distribution too, on these uniform numbers."""
    count = len(golden[f"{kind}_t"])
    points = np.random.RandomState(int(golden[f"{kind}_seed"])).random_sample(count)
    weights = golden["weights"][-1] if kind == "sample" else np.ones(int(golden["num_timesteps"]))
    probabilities = jnp.asarray(weights / weights.sum())
    t = _invert(probabilities, jnp.asarray(points))
    np.testing.assert_array_equal(t, golden[f"{kind}_t"])
    importance = 1.0 / (len(weights) * probabilities[t])
    np.testing.assert_allclose(importance, golden[f"{kind}_w"], rtol=1e-6)


def test_fixstep_weights(golden):
    weights = golden["fixstep_weights"]
    t, importance = fixstep(len(weights)).sample(jax.random.key(0), (), 64)
    want = weights.sum() / (len(weights) * weights)
    np.testing.assert_allclose(importance, want[np.asarray(t)], rtol=1e-6)
