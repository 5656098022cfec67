from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.train.optimizer import make_optimizer
from diffusion_jax.train.state import init_state, update_ema
from diffusion_jax.train.step import FROZEN, make_train_step
from tests.train.toy import B, T, Terms, batch_at, history, init_params, loss_fn, setup, uniform

ROOT = jax.random.key(3)


def run(run_setup, steps, batches=batch_at):
    state, rows = run_setup.state, []
    for index in range(steps):
        state, metrics = run_setup.step(state, run_setup.place(batches(index)), ROOT)
        rows.append(jax.device_get(metrics))
    return state, rows


def quiet_loss(params, key, batch, t, dropout_key):
    """Like ``loss_fn`` without randomness, so that two ways of cutting a batch can be compared."""
    del key, dropout_key
    x = params["embedding"][batch["input_ids"]]
    error = jnp.mean((jnp.tanh(x @ params["inner"]) @ params["outer"] - 1) ** 2, axis=(1, 2))
    return Terms(error * (1 + t.astype(jnp.float32) / T), jnp.mean(x**2, axis=(1, 2)))


def test_ema_moves_by_one_minus_rate():
    ema = update_ema({"0.9": {"w": jnp.asarray([1.0])}}, {"w": jnp.asarray([2.0])})
    np.testing.assert_allclose(ema["0.9"]["w"], [1.1], rtol=1e-6)


def test_averages_start_at_the_parameters_and_follow_the_updated_ones():
    run_setup = setup(loss=quiet_loss, sampler=uniform(), ema_rates=(0.0, 0.9))
    start = jax.device_get(run_setup.state.params)
    state, _ = run(run_setup, 1)
    new = jax.device_get(state.params)
    for name in start:
        np.testing.assert_array_equal(state.ema["0.0"][name], new[name])
        np.testing.assert_allclose(
            state.ema["0.9"][name], 0.9 * start[name] + 0.1 * new[name], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("rates", [(1.0,), (-0.1,), (0.9, 0.9)])
def test_bad_ema_rates_are_named(rates):
    with pytest.raises(UserError, match=r"EMA|ema_rates"):
        init_state(init_params(), make_optimizer(1e-3, 10), ema_rates=rates)


def test_accumulated_gradients_equal_those_of_the_whole_batch():
    optimizer = make_optimizer(1e-2, 100)
    whole, rows = run(setup(loss=quiet_loss, optimizer=optimizer), 3)
    cut, cut_rows = run(setup(loss=quiet_loss, optimizer=optimizer, num_microbatches=4), 3)
    for a, b in zip(rows, cut_rows):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-5, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(jnp.isfinite(whole.timestep_state), True)
    np.testing.assert_allclose(whole.timestep_state, cut.timestep_state, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(cut.params)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_microbatches", [1, 4])
def test_frozen_parameters_reach_the_loss_and_stay(num_microbatches):
    """The same step as with the parameters closed over, on eight devices with them cut in two."""
    frozen = {"inner": jnp.linspace(0.0, 0.1, 36).reshape(6, 6)}

    def loss(params, key, batch, t, dropout_key, given=None):
        shift = jnp.sum((batch if given is None else {FROZEN: given})[FROZEN]["inner"][:, ::5])
        rows = {"input_ids": batch["input_ids"]}
        error, penalty = quiet_loss(params, key, rows, t, dropout_key)
        return Terms(error * (2 + shift + 0.1 * jnp.sin(shift)), penalty)

    options = {"sampler": uniform(), "num_microbatches": num_microbatches}
    known, expected = run(setup(loss=partial(loss, given=frozen), **options), 3)
    run_setup = setup(loss=loss, data=4, fsdp=2, frozen=frozen, **options)
    state, rows = run(run_setup, 3)
    for a, b in zip(
        jax.tree.leaves((state.params, rows)), jax.tree.leaves((known.params, expected))
    ):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(run_setup.frozen["inner"], frozen["inner"])
    assert run_setup.frozen["inner"].addressable_shards[0].data.shape == (3, 6)


def test_microbatches_draw_different_noise():
    """Rows that are equal get different losses in different microbatches."""
    same = {"input_ids": np.ones((B, 4), np.int32)}

    def watch(params, key, batch, t, dropout_key):
        terms = quiet_loss(params, None, batch, t, dropout_key)
        return Terms(jax.random.uniform(key, t.shape), 0 * terms.prior)

    def update(state, t, losses):
        return losses

    sampler = uniform()._replace(init=lambda: jnp.zeros(B), update=update)
    state, _ = run(setup(loss=watch, sampler=sampler, num_microbatches=4), 1, lambda step: same)
    seen = np.asarray(state.timestep_state)
    assert len(np.unique(seen)) == B


def test_batch_that_does_not_divide_into_microbatches():
    with pytest.raises(UserError, match="16 rows does not divide into 3"):
        run(setup(num_microbatches=3), 1)


def test_importance_weights_scale_the_gradient_but_not_the_reported_loss():
    plain = uniform()
    doubled = plain._replace(sample=lambda key, state, n: (jnp.arange(n) % T, jnp.full((n,), 2.0)))
    _, (a,) = run(setup(loss=quiet_loss, sampler=plain), 1)
    _, (b,) = run(setup(loss=quiet_loss, sampler=doubled), 1)
    np.testing.assert_allclose(2 * a["grad_norm"], b["grad_norm"], rtol=1e-5)
    np.testing.assert_allclose(a["total"], b["total"], rtol=1e-6)
    np.testing.assert_allclose(2 * a["weighted_total"], b["weighted_total"], rtol=1e-5)


def test_metrics_add_up():
    _, rows = run(setup(), 4)
    for index, row in enumerate(rows):
        np.testing.assert_allclose(row["total"], row["mse"] + row["prior"], rtol=1e-5)
        assert sum(row[f"total_q{q}_count"] for q in range(4)) == B
        np.testing.assert_allclose(
            sum(row[f"total_q{q}_sum"] for q in range(4)), B * row["total"], rtol=1e-5
        )
        np.testing.assert_allclose(row["learning_rate"], 1e-2 * (1 - index / 100), rtol=1e-5)
        assert row["finite"]


def test_quarters_split_at_a_quarter_of_the_timesteps():
    t = jnp.asarray([0, 4, 5, 9, 10, 14, 15, 19])
    sampler = uniform()._replace(sample=lambda key, state, n: (jnp.tile(t, 2), jnp.ones((n,))))
    _, (row,) = run(setup(loss=quiet_loss, sampler=sampler), 1)
    assert [int(row[f"total_q{q}_count"]) for q in range(4)] == [4, 4, 4, 4]


def test_a_loss_that_is_not_finite_changes_nothing():
    def broken(params, key, batch, t, dropout_key):
        terms = quiet_loss(params, key, batch, t, dropout_key)
        return Terms(jnp.where(jnp.arange(B) == 3, jnp.nan, terms.mse), terms.prior)

    run_setup = setup(loss=broken, sampler=uniform())
    before = jax.device_get(run_setup.state)
    state, (row,) = run(run_setup, 1)
    assert not row["finite"]
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state))


def test_a_gradient_that_is_not_finite_changes_nothing():
    def steep(params, key, batch, t, dropout_key):
        terms = quiet_loss(params, key, batch, t, dropout_key)
        zero = jnp.sum(params["inner"]) * 0.0
        return Terms(terms.mse + jnp.sqrt(zero), terms.prior)

    run_setup = setup(loss=steep, sampler=uniform())
    before = jax.device_get(run_setup.state)
    state, (row,) = run(run_setup, 1)
    assert np.isfinite(row["total"])
    assert not row["finite"]
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state))


def test_eight_rows_are_learnt_by_heart():
    def clean_loss(params, key, batch, t, dropout_key):
        del key, t, dropout_key
        target = jnp.sin(2.0 * batch["input_ids"])[..., None]
        x = params["embedding"][batch["input_ids"]]
        out = (jnp.tanh(x @ params["inner"]) @ params["outer"])[..., :1]
        error = jnp.mean((out - target) ** 2, axis=(1, 2))
        return Terms(error, jnp.zeros_like(error))

    rows = {"input_ids": np.arange(32, dtype=np.int32).reshape(8, 4) % 12}
    optimizer = make_optimizer(3e-2, 150)
    run_setup = setup(loss=clean_loss, sampler=uniform(), optimizer=optimizer)
    _, metrics = run(run_setup, 150, lambda step: rows)
    assert metrics[-1]["total"] < 0.02 * metrics[0]["total"]


def test_the_step_is_a_function_of_its_arguments():
    optimizer, sampler = make_optimizer(1e-2, 100), history()
    step = jax.jit(make_train_step(loss_fn, optimizer, sampler, num_timesteps=T))
    state = init_state(init_params(), optimizer, timestep_state=sampler.init())
    batch = {name: jnp.asarray(x) for name, x in batch_at(0).items()}
    first, again = step(state, batch, ROOT), step(state, batch, ROOT)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = step(state, batch, jax.random.key(4))
    assert float(other[1]["total"]) != float(first[1]["total"])
