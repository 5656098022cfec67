"""The likelihood bound, held against models whose likelihood is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.likelihood import LikelihoodTerms, likelihood_bound, summarize
from diffusion_jax.models.base import Model
from diffusion_jax.schedules import make_schedule
from diffusion_jax.types import RoundingHead

SCHEDULE = make_schedule("sqrt", 200)


def bayes_model(schedule, embedding, word_probabilities):
    """Return the best possible denoiser for words that are drawn independently of each other."""
    alphas_cumprod = jnp.asarray(schedule.alphas_cumprod, jnp.float32)
    first_variance = 1 - alphas_cumprod[0]
    log_prior = jnp.log(word_probabilities)

    def denoise(params, x_t, time, self_cond=None, *, dropout_key=None):
        t = jnp.round(time * schedule.num_timesteps / 1000).astype(int)
        alpha_bar = alphas_cumprod[t][:, None, None, None]
        variance = alpha_bar * first_variance + 1 - alpha_bar
        residual = x_t[:, :, None] - jnp.sqrt(alpha_bar) * embedding[None, None]
        score = -0.5 * jnp.sum(residual**2 / variance, -1) + log_prior[None, None]
        gain = jnp.sqrt(alpha_bar) * first_variance / variance
        # The mean of x_start, or at t = 0 of its own mean, as the loss trains it.
        gain = jnp.where(t[:, None, None, None] == 0, 0.0, gain)
        by_word = embedding[None, None] + gain * residual
        return jnp.sum(jax.nn.softmax(score)[..., None] * by_word, axis=2)

    return Model(
        init=lambda key: None,
        embed=lambda params, ids: embedding[ids],
        head=lambda params: RoundingHead(embedding, jnp.zeros(embedding.shape[0])),
        denoise=denoise,
        logical_axes=lambda: None,
    )


def bound(key, model, ids, **options):
    options = {"schedule": SCHEDULE, **options}
    schedule = options.pop("schedule")
    run = jax.jit(lambda key, ids: likelihood_bound(key, model, None, schedule, ids, **options))
    return run(key, ids)


def test_a_language_of_one_word_costs_nothing(key):
    model = bayes_model(SCHEDULE, jnp.array([[0.7, -0.4, 1.1]]), jnp.ones(1))
    terms = bound(key, model, jnp.zeros((4, 6), jnp.int32))
    # q(x_start | w) is sampled exactly, so only the prior is left: 18 numbers of T-1's signal.
    np.testing.assert_allclose(terms.diffusion, 0, atol=1e-4)
    np.testing.assert_allclose(terms.rounding_nll, 0, atol=1e-6)
    signal = SCHEDULE.alphas_cumprod[-1]
    first_variance = 1 - SCHEDULE.alphas_cumprod[0]
    spread = 1 - signal + signal * first_variance
    prior = 0.5 * (signal * (0.49 + 0.16 + 1.21) + 3 * (spread - 1 - np.log(spread)))
    np.testing.assert_allclose(terms.prior, 6 * prior, rtol=1e-2, atol=1e-6)


def test_the_published_bound_wastes_a_constant(key):
    schedule = make_schedule("sqrt", 2000)
    model = bayes_model(schedule, jnp.array([[0.7, -0.4, 1.1]]), jnp.ones(1))
    ids = jnp.zeros((2, 6), jnp.int32)
    published = bound(key, model, ids, schedule=schedule, variance="fixed_small")
    matched = bound(key, model, ids, schedule=schedule)
    assert float(jnp.min(published.total() - matched.total())) > 0.33 * 18


@pytest.mark.parametrize("num_timesteps", [None, 40])
def test_the_bound_is_above_the_entropy_and_near_it(key, num_timesteps):
    probabilities = jnp.array([0.5, 0.25, 0.25])
    embedding = 3 * jnp.array([[1.0, 0.2], [-0.8, 1.0], [-0.3, -1.1]])
    model = bayes_model(SCHEDULE, embedding, probabilities)
    id_key, bound_key = jax.random.split(key)
    ids = jax.random.categorical(id_key, jnp.log(probabilities), shape=(512, 8))
    summary = summarize(bound(bound_key, model, ids, num_timesteps=num_timesteps))
    exact = float(jnp.mean(-jnp.log(probabilities)[ids]))
    assert summary.nats_per_token > exact - 3 * summary.nats_per_token_error
    # What 200 discrete steps cost.
    assert summary.nats_per_token < exact + 0.05 + 3 * summary.nats_per_token_error
    assert summary.nats_per_token_error < 0.05
    parts = summary.prior_per_token + summary.diffusion_per_token + summary.rounding_nll_per_token
    np.testing.assert_allclose(parts, summary.nats_per_token, rtol=1e-6)


def test_a_subset_of_timesteps_is_unbiased(key):
    embedding = jax.random.normal(jax.random.key(3), (7, 2))
    model = bayes_model(SCHEDULE, embedding, jnp.ones(7) / 7)
    ids = jnp.tile(jnp.arange(6)[None], (512, 1))
    full_key, part_key = jax.random.split(key)
    full = summarize(bound(full_key, model, ids))
    # 7 strata do not divide 200 timesteps.
    part = summarize(bound(part_key, model, ids, num_timesteps=7))
    error = np.hypot(full.nats_per_token_error, part.nats_per_token_error)
    assert abs(full.nats_per_token - part.nats_per_token) < 3.5 * error
    assert error < 0.1 * full.nats_per_token


def test_given_positions_and_padding(key):
    embedding = jax.random.normal(jax.random.key(3), (7, 2))
    model = bayes_model(SCHEDULE, embedding, jnp.ones(7) / 7)
    ids = jax.random.randint(jax.random.key(4), (4, 6), 0, 7)
    positions = jnp.broadcast_to(jnp.arange(6)[None], (4, 6))

    @jax.jit
    def generate_from(first, ids):
        masks = {"noise_mask": positions >= first, "token_mask": positions < 5}
        return likelihood_bound(key, model, None, SCHEDULE, ids, **masks)

    terms = generate_from(3, ids)
    np.testing.assert_array_equal(terms.num_tokens, 2)
    # The toy model treats positions alone, so other given words change nothing.
    other = generate_from(3, ids.at[:, :3].set(0))
    np.testing.assert_allclose(terms.total(), other.total(), rtol=1e-6)
    assert np.all(terms.total() < generate_from(0, ids).total())


def test_summary_of_known_numbers():
    terms = LikelihoodTerms(*(jnp.array(a) for a in ([1.0, 0.0], [2.0, 4.0], [1.0, 4.0], [2, 4])))
    summary = summarize(terms)
    assert (summary.nats_per_sentence, summary.nats_per_token) == (6.0, 2.0)
    assert (summary.nats_per_sentence_error, summary.nats_per_token_error) == (2.0, 0.0)


def test_arguments_are_checked(key):
    model = bayes_model(SCHEDULE, jnp.ones((1, 2)), jnp.ones(1))
    ids = jnp.zeros((2, 3), jnp.int32)
    with pytest.raises(UserError, match="num_timesteps=201"):
        likelihood_bound(key, model, None, SCHEDULE, ids, num_timesteps=201)
    with pytest.raises(UserError, match=r"variance 'small'.*fixed_small"):
        likelihood_bound(key, model, None, SCHEDULE, ids, variance="small")
    with pytest.raises(ValueError, match="token_mask has shape"):
        likelihood_bound(key, model, None, SCHEDULE, ids, token_mask=jnp.ones((2, 4), bool))
    with pytest.raises(UserError, match="at least 2 sentences"):
        summarize(LikelihoodTerms(*jnp.ones((4, 1))))
