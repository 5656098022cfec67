import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.guidance import attribute_log_prob, label_log_prob
from diffusion_jax.models.base import Model
from diffusion_jax.models.classifier import noise_aware_classifier
from diffusion_jax.models.shape import ClassifierConfig
from diffusion_jax.schedules import make_schedule
from diffusion_jax.train.classifier_loss import (
    denoiser_estimates,
    label_scores,
    make_classifier_loss,
    noisy_states,
)
from diffusion_jax.train.step import FROZEN

B, L, E, C = 3, 4, 4, 5
SHAPES = {"attribute": (B, C), "pos": (B, L, C), "tree": (B, L, L, C)}
SLICES = [(0, 2), (2, 5)]


@functools.cache
def build(task):
    spec = ClassifierConfig(
        task=task,
        num_classes=C,
        embed_dim=E,
        max_length=L,
        hidden_dim=8,
        num_layers=1,
        num_heads=2,
        mlp_dim=8,
        time_dim=4,
    )
    model = noise_aware_classifier(spec)
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.asarray(0.5 * random.normal(size=x.shape), x.dtype), shapes)
    return model, params, jax.jit(lambda x, time: model.logits(params, x, time))


X = jax.random.normal(jax.random.key(3), (B, L, E))
TIME = jnp.array([0.0, 400.0, 900.0])


@pytest.mark.parametrize("task", SHAPES)
def test_logits_have_the_shape_of_the_task_and_feel_time_and_every_position(task):
    model, params, logits = build(task)
    out = logits(X, TIME)
    assert out.shape == SHAPES[task]
    assert out.dtype == jnp.float32
    moved = np.abs(logits(X, TIME + 50) - out).reshape(B, -1).max(axis=1)
    assert np.all(moved > 1e-6)
    for position in range(L):
        moved = np.abs(logits(X.at[:, position].add(1.0), TIME) - out).reshape(B, -1).max(axis=1)
        assert np.all(moved > 1e-6)
    names = jax.tree.leaves(model.logical_axes(), is_leaf=lambda x: isinstance(x, tuple))
    assert [len(n) for n in names] == [p.ndim for p in jax.tree.leaves(params)]


def test_a_span_is_read_off_its_start_and_its_end():
    model, params, _ = build("tree")
    apply = jax.jit(model.logits)
    out = apply(params, X, TIME)
    assert np.abs(out - out.swapaxes(1, 2)).max() > 1e-3
    no_start = {**params, "start": jax.tree.map(jnp.zeros_like, params["start"])}
    ends = apply(no_start, X, TIME)
    np.testing.assert_allclose(ends, jnp.broadcast_to(ends[:, :1], ends.shape), atol=1e-6)


@pytest.mark.parametrize("task", SHAPES)
def test_log_probs_are_sums_over_what_is_wanted_and_rows_do_not_meet(task):
    _, _, logits = build(task)
    out = np.asarray(logits(X, TIME))
    if task == "attribute":
        targets = np.array([[1, -1], [-1, 2], [-1, -1]])
        log_prob = attribute_log_prob(logits, SLICES, jnp.asarray(targets))
        first, second = jax.nn.log_softmax(out[:, :2]), jax.nn.log_softmax(out[:, 2:])
        expected = [first[0, 1], second[1, 2], 0.0]
    else:
        targets = np.full(SHAPES[task][:-1], -1)
        targets[0, 1], targets[1, 2] = 3, 0
        log_prob = label_log_prob(logits, jnp.asarray(targets))
        each = np.asarray(jax.nn.log_softmax(out))
        expected = [each[0, 1, ..., 3].sum(), each[1, 2, ..., 0].sum(), 0.0]
    np.testing.assert_allclose(log_prob(X, TIME), expected, atol=1e-5)
    slope = jax.grad(lambda x: log_prob(x, TIME)[0])(X)
    assert np.abs(slope[0]).max() > 1e-6
    assert np.all(slope[1:] == 0)


def test_the_loss_is_the_mean_cross_entropy_of_what_is_labelled():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, C)), jnp.float32)
    targets = jnp.array([[0, 4, -1], [-1, -1, 2]])
    nll, guess, given = label_scores(logits, targets, None)
    expected = -jax.nn.log_softmax(logits)[0, 1, 4]
    np.testing.assert_allclose(nll[0, 1], expected, rtol=1e-6)
    np.testing.assert_array_equal(given, targets >= 0)
    np.testing.assert_array_equal(guess, jnp.argmax(logits, -1))
    flat = logits[:, 0]
    nll, guess, given = label_scores(flat, jnp.array([[1, -1], [0, 2]]), SLICES)
    np.testing.assert_allclose(nll[1, 1], -jax.nn.log_softmax(flat[:, 2:])[1, 2], rtol=1e-6)
    assert nll.shape == guess.shape == given.shape == (2, 2)


def test_clean_rows_are_embeddings_and_noisy_ones_are_those_of_the_schedule():
    schedule = make_schedule("sqrt", 20)
    table = np.random.default_rng(4).normal(size=(7, E)).astype(np.float32)
    ids = jnp.arange(2 * 500).reshape(2, 500) % 7
    t, clean = jnp.array([12, 12]), jnp.array([True, False])
    views = noisy_states(schedule)
    x, time = views(jax.random.key(0), {"embedding": jnp.asarray(table)}, ids, t, clean)
    np.testing.assert_array_equal(x[0], table[ids[0]])
    assert time[0] == schedule.model_timesteps[0]
    assert time[1] == schedule.model_timesteps[12]
    noise = x[1] - np.sqrt(schedule.alphas_cumprod[12]) * table[ids[1]]
    np.testing.assert_allclose(np.var(noise), 1 - schedule.alphas_cumprod[12], rtol=0.1)


@pytest.mark.parametrize("self_condition", [False, True])
def test_estimates_are_those_of_the_denoiser_at_the_noise_it_is_told(self_condition):
    """The toy answers with state, time and its own last estimate, so that all can be read back."""
    schedule = make_schedule("sqrt", 20)
    table = jnp.asarray(np.random.default_rng(4).normal(size=(7, E)), jnp.float32)

    def denoise(params, x_t, time, self_cond=None):
        seen = 0.0 if self_cond is None else self_cond
        return x_t * params["scale"] + 1000.0 * time[:, None, None] + 3.0 * seen

    unused: Any = None
    toy = Model(unused, lambda params, ids: params["embedding"][ids], unused, denoise, unused)
    frozen = {"embedding": table, "scale": jnp.float32(2.0)}
    ids, t, clean = jnp.arange(3 * 4).reshape(3, 4) % 7, jnp.array([12, 3, 12]), jnp.arange(3) == 2
    x_t, times = noisy_states(schedule)(jax.random.key(0), frozen, ids, t, clean)
    views = denoiser_estimates(toy, schedule, self_condition=self_condition)
    x, time = views(jax.random.key(0), frozen, ids, t, clean)
    np.testing.assert_array_equal(time, times)
    np.testing.assert_array_equal(x[2], table[ids[2]])
    once = 2.0 * x_t + 1000.0 * times[:, None, None]
    np.testing.assert_allclose(x[:2], (once + 3.0 * once * self_condition)[:2], rtol=1e-6)


def test_the_loss_shows_clean_rows_at_its_rate():
    model, params, _ = build("pos")
    batch = {
        "input_ids": jnp.zeros((B, L), jnp.int32),
        "targets": jnp.zeros((B, L), jnp.int32),
        FROZEN: {"embedding": jnp.ones((7, E))},
    }
    t = jnp.full((B,), 19)
    losses = [
        make_classifier_loss(model, noisy_states(make_schedule("sqrt", 20)), clean_rate=rate)
        for rate in (1.0, 0.0)
    ]
    keys = jax.random.split(jax.random.key(5), 4)
    clean, noisy = (jax.jit(lambda key, f=f: f(params, key, batch, t, None).nll) for f in losses)
    clean, noisy = [clean(key) for key in keys[:2]], [noisy(key) for key in keys[2:]]
    np.testing.assert_array_equal(*clean)
    assert np.all(noisy[0] != noisy[1])


def test_what_is_not_known_yet_is_asked_for():
    with pytest.raises(UserError, match="num_classes"):
        noise_aware_classifier(ClassifierConfig(embed_dim=4, max_length=4))
    with pytest.raises(UserError, match="task"):
        ClassifierConfig(task="colour")  # type: ignore[arg-type]
