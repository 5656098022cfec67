import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.train.optimizer import learning_rate_schedule, make_optimizer


def test_linear_decay_starts_full_and_ends_at_zero():
    rate = learning_rate_schedule(1e-4, 200)
    steps = np.arange(0, 201)
    np.testing.assert_allclose(
        [rate(int(s)) for s in steps], 1e-4 * (1 - steps / 200), rtol=1e-5, atol=1e-12
    )


def test_warmup_climbs_to_the_peak_then_decays_over_the_rest():
    rate = learning_rate_schedule(1.0, 30, warmup_steps=10)
    np.testing.assert_allclose([rate(s) for s in range(10)], (np.arange(10) + 1) / 10, rtol=1e-6)
    np.testing.assert_allclose(
        [rate(s) for s in range(10, 31)], 1 - np.arange(21) / 20, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize(("schedule", "middle"), [("cosine", 0.5), ("constant", 1.0)])
def test_other_decays(schedule, middle):
    rate = learning_rate_schedule(1.0, 10, schedule=schedule)
    assert float(rate(0)) == 1.0
    np.testing.assert_allclose(rate(5), middle, rtol=1e-6)


def test_first_update_of_adamw_is_the_sign_of_the_gradient_plus_decay():
    optimizer = make_optimizer(0.1, 10, weight_decay=0.5)
    params = {"w": jnp.asarray([1.0, -2.0, 3.0])}
    grads = {"w": jnp.asarray([0.3, -5.0, 1e-3])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    expected = -0.1 * (jnp.sign(grads["w"]) + 0.5 * params["w"])
    np.testing.assert_allclose(updates["w"], expected, rtol=1e-4)


def test_clipping_bounds_what_the_moments_see():
    params = {"w": jnp.zeros(4)}
    grads = {"w": jnp.asarray([3.0, 4.0, 0.0, 0.0])}
    clipped = make_optimizer(0.1, 10, clip_norm=1.0)
    _, state = clipped.update(grads, clipped.init(params), params)
    (first_moment,) = (leaf["w"] for leaf in _moments(state))
    np.testing.assert_allclose(first_moment, 0.1 * np.asarray([0.6, 0.8, 0, 0]), rtol=1e-6)


def _moments(state):
    import optax

    yield optax.tree.get(state, "mu")


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"total_steps": 0},
        {"warmup_steps": 10},
        {"schedule": "quadratic"},
        {"betas": (0.9, 1.0)},
        {"eps": 0.0},
        {"weight_decay": -0.1},
        {"clip_norm": 0.0},
    ],
)
def test_bad_values_are_named(options):
    with pytest.raises(UserError):
        make_optimizer(**{"learning_rate": 1e-4, "total_steps": 10, **options})
