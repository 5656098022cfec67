"""Objectives without a classifier, against the formulas written out; classifier-free guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.guidance import (
    classifier_free,
    estimate_posterior,
    fixed_embeddings,
    fixed_length,
    fixed_words,
    keywords,
    latent_posterior,
    weighted_sum,
)
from diffusion_jax.rounding import logits
from diffusion_jax.samplers import step_grid
from diffusion_jax.schedules import make_schedule
from diffusion_jax.types import RoundingHead, StepInfo, StepOutput

GRID = step_grid(make_schedule("sqrt", 20))
EMBEDDING = jax.random.normal(jax.random.key(1), (9, 4))
HEAD = RoundingHead(EMBEDDING, jax.random.normal(jax.random.key(2), (9,)))
X = jax.random.normal(jax.random.key(3), (2, 6, 4))
INPUT_IDS = jnp.asarray([[1, 2, 3, 4, 5, 6], [0, 8, 7, 6, 5, 4]])
KNOWN_MASK = jnp.asarray([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]], bool)
END, PAD = 7, 8


def denoise(x_t, time, self_cond=None):
    mixed = jnp.tanh(x_t) * (1 - time[:, None, None] / 2000)
    return mixed if self_cond is None else mixed + 0.1 * self_cond


def info_at(t):
    return StepInfo(*(jnp.asarray(field[19 - t]) for field in GRID))


def evaluate(objective, t=12, x=X):
    return jax.jit(objective)(x, info_at(t), StepOutput(x + 1, x, jnp.float32(0.4)))


def log_posterior(posterior, t=12):
    head, vectors = posterior(X, info_at(t), StepOutput(X + 1, X, jnp.float32(0.4)))
    return jax.nn.log_softmax(logits(head, vectors))


def chosen(log_probs, ids):
    return np.take_along_axis(np.asarray(log_probs), np.asarray(ids)[..., None], axis=-1)[..., 0]


def test_latent_posterior_is_bayes_rule():
    info = info_at(12)
    distance = X[:, :, None, :] - np.sqrt(info.alpha_bar_prev) * EMBEDDING[None, None]
    log_density = -0.5 * jnp.sum(distance**2, axis=-1) / info.one_minus_alpha_bar_prev
    expected = jax.nn.log_softmax(log_density)
    np.testing.assert_allclose(log_posterior(latent_posterior(EMBEDDING)), expected, atol=1e-4)


def test_latent_posterior_of_clean_data_is_finite():
    log_probs = log_posterior(latent_posterior(EMBEDDING), t=0)
    nearest = jnp.argmin(jnp.sum((X[:, :, None] - EMBEDDING[None, None]) ** 2, axis=-1), axis=-1)
    assert np.all(np.isfinite(log_probs))
    np.testing.assert_array_equal(jnp.argmax(log_probs, axis=-1), nearest)


@pytest.mark.parametrize("self_condition", [False, True])
def test_estimate_posterior_is_the_rounding_of_the_estimate(self_condition):
    posterior = estimate_posterior(HEAD, denoise, self_condition=self_condition)
    time = jnp.full(2, info_at(12).time_prev)
    pred_x_start = denoise(X, time, X + 1 if self_condition else None)
    expected = jax.nn.log_softmax(logits(HEAD, pred_x_start))
    np.testing.assert_allclose(log_posterior(posterior), expected, atol=1e-5)


def test_fixed_words_are_those_of_the_mask():
    posterior = latent_posterior(EMBEDDING)
    expected = np.sum(chosen(log_posterior(posterior), INPUT_IDS) * KNOWN_MASK, axis=-1)
    objective = fixed_words(posterior, INPUT_IDS, KNOWN_MASK)
    np.testing.assert_allclose(evaluate(objective), expected, rtol=1e-4)
    gradient = jax.grad(lambda x: jnp.sum(evaluate(objective, x=x)))(X)
    np.testing.assert_array_equal(np.any(gradient != 0, axis=-1), KNOWN_MASK)


def test_fixed_length_wants_end_and_padding():
    posterior = estimate_posterior(HEAD, denoise)
    lengths = jnp.asarray([2, 6])
    objective = fixed_length(posterior, lengths, seq_len=6, end_id=END, pad_id=PAD)
    log_probs = log_posterior(posterior)
    expected = [
        log_probs[0, 1, END] + jnp.sum(log_probs[0, 2:, PAD]),
        log_probs[1, 5, END],
    ]
    np.testing.assert_allclose(evaluate(objective), expected, rtol=1e-4)


def test_fixed_length_can_be_an_argument_of_a_compiled_function():
    posterior = latent_posterior(EMBEDDING)

    def value(lengths):
        return evaluate(fixed_length(posterior, lengths, seq_len=6, end_id=END, pad_id=PAD))

    lengths = jnp.asarray([3, 4])
    np.testing.assert_allclose(jax.jit(value)(lengths), value(lengths), rtol=1e-5)


def test_keywords_sum_over_positions():
    posterior = latent_posterior(EMBEDDING)
    word_ids = jnp.asarray([[1, 2], [3, 3]])
    log_probs = np.asarray(log_posterior(posterior), np.float64)
    expected = [
        sum(np.log(np.exp(log_probs[row, :, word]).sum()) for word in words)
        for row, words in enumerate(word_ids.tolist())
    ]
    np.testing.assert_allclose(evaluate(keywords(posterior, word_ids)), expected, rtol=1e-4)


def test_a_keyword_that_is_there_pulls_no_more():
    objective = keywords(latent_posterior(EMBEDDING), jnp.asarray([[3], [3]]))

    def size(x):
        gradient = jax.grad(lambda x: jnp.sum(evaluate(objective, t=0, x=x)))(x)
        return np.abs(gradient).sum(axis=(1, 2))

    x = jnp.broadcast_to(EMBEDDING[5], X.shape)
    there = x.at[0, 2].set(EMBEDDING[3])
    before, after = size(x), size(there)
    assert after[0] < 1e-3 * before[0]
    np.testing.assert_allclose(after[1], before[1], rtol=1e-5)


def test_fixed_embeddings_is_the_scaled_distance():
    x_start = EMBEDDING[INPUT_IDS]
    pred_x_start = denoise(X, jnp.full(2, info_at(12).time))
    square = np.sum(np.square(pred_x_start - x_start), axis=-1)
    objective = fixed_embeddings(denoise, x_start, KNOWN_MASK)
    expected = -np.sum(square * KNOWN_MASK, axis=-1) / 0.4
    np.testing.assert_allclose(evaluate(objective), expected, rtol=1e-5)


def test_weighted_sum():
    first = fixed_words(latent_posterior(EMBEDDING), INPUT_IDS, KNOWN_MASK)
    second = fixed_embeddings(denoise, EMBEDDING[INPUT_IDS], KNOWN_MASK)
    expected = 2 * evaluate(first) - 0.5 * evaluate(second)
    both = evaluate(weighted_sum((2.0, first), (-0.5, second)))
    np.testing.assert_allclose(both, expected, rtol=1e-5)


@pytest.mark.parametrize("lengths", [[1, 4], [3, 7]])
def test_lengths_that_do_not_fit(lengths):
    with pytest.raises(UserError, match=r"use 2 .* to 6"):
        fixed_length(
            latent_posterior(EMBEDDING), jnp.asarray(lengths), seq_len=6, end_id=END, pad_id=PAD
        )


def test_bad_arguments():
    posterior = latent_posterior(EMBEDDING)
    with pytest.raises(UserError, match="at least one"):
        weighted_sum()
    with pytest.raises(UserError, match=r"\[B, W\]"):
        keywords(posterior, jnp.asarray([1, 2]))
    with pytest.raises(ValueError, match="known_mask"):
        fixed_words(posterior, INPUT_IDS, KNOWN_MASK[:, :3])
    with pytest.raises(ValueError, match="known_mask"):
        fixed_embeddings(denoise, X, KNOWN_MASK[:, :3])
    with pytest.raises(UserError, match="scale=-1"):
        classifier_free(denoise, denoise, -1.0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_classifier_free_extrapolates(scale):
    def conditional(x_t, time, self_cond=None):
        return denoise(x_t, time, self_cond) + 1.0

    time = jnp.asarray([100.0, 500.0])
    mixed = classifier_free(conditional, denoise, scale)(X, time, X + 1)
    np.testing.assert_allclose(mixed, denoise(X, time, X + 1) + scale, atol=1e-6)
