"""Properties of the losses, on a network of one matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.forward import q_sample, sample_x_start
from diffusion_jax.losses import (
    Draws,
    diffusion_loss,
    gaussian_kl,
    prediction_nll_loss,
    variational_loss,
)
from diffusion_jax.models.base import Model
from diffusion_jax.schedules import extract, make_schedule
from diffusion_jax.types import RoundingHead

B, L, E, V = 4, 6, 3, 7
SCHEDULE = make_schedule("sqrt", 100)
T_BATCH = jnp.array([0, 1, 60, 99], jnp.int32)


def init(key):
    embedding_key, mix_key = jax.random.split(key)
    return {
        "embedding": jax.random.normal(embedding_key, (V, E)),
        "bias": jnp.linspace(-0.1, 0.1, V),
        "mix": jax.random.normal(mix_key, (E, E)),
    }


def denoise(params, x_t, time, self_cond=None, *, dropout_key=None):
    x = x_t if self_cond is None else x_t + 0.5 * self_cond
    out = jnp.tanh(x @ params["mix"]) * (1.0 + 0.001 * time[:, None, None])
    if dropout_key is not None:
        out = out * jax.random.bernoulli(dropout_key, 0.5, out.shape)
    return out


TOY = Model(
    init=init,
    embed=lambda params, input_ids: params["embedding"][input_ids],
    head=lambda params: RoundingHead(params["embedding"], params["bias"]),
    denoise=denoise,
    logical_axes=dict,
)
PARAMS = init(jax.random.key(5))
IDS = jax.random.randint(jax.random.key(6), (B, L), 0, V)
EVERYWHERE = jnp.ones((B, L), bool)
TARGET = jnp.arange(L)[None, :] >= jnp.array([[0], [2], [3], [5]])


def normal(seed):
    return jax.random.normal(jax.random.key(seed), (B, L, E))


DRAWS = Draws(normal(7), normal(8))


def loss(params=PARAMS, *, ids=IDS, mask=EVERYWHERE, t=T_BATCH, key=None, draws=DRAWS, **options):
    return diffusion_loss(key, TOY, params, SCHEDULE, ids, mask, t, draws=draws, **options)


def by_hand(mask):
    """The three terms, written out."""
    embeddings = PARAMS["embedding"][IDS]
    x_start = sample_x_start(None, SCHEDULE, embeddings, noise=DRAWS.x_start_noise)
    x_t = q_sample(None, SCHEDULE, x_start, T_BATCH, mask, noise=DRAWS.q_noise)
    out = denoise(PARAMS, x_t, extract(SCHEDULE.model_timesteps, T_BATCH, 1))
    target = jnp.where((T_BATCH == 0)[:, None, None], embeddings, x_start)
    log_probs = jax.nn.log_softmax(x_start @ PARAMS["embedding"].T + PARAMS["bias"][None, None])
    nll = -jnp.take_along_axis(log_probs, IDS[..., None], axis=-1)[..., 0]
    prior = SCHEDULE.alphas_cumprod[-1] * x_start**2
    return ((target - out) ** 2).mean(-1), prior.mean(-1), nll


@pytest.mark.parametrize("mask", [EVERYWHERE, TARGET])
def test_terms_are_the_written_out_ones(mask):
    terms = loss(mask=mask)
    for got, want in zip(terms, by_hand(mask)):
        np.testing.assert_allclose(got, want.mean(-1), rtol=1e-5)
    np.testing.assert_array_equal(terms.penalty, jnp.zeros(B))
    np.testing.assert_allclose(terms.total(), sum(terms[:3]), rtol=1e-6)


def test_target_positions_only():
    terms = loss(mask=TARGET, positions="target")
    weights = TARGET / TARGET.sum(-1, keepdims=True)
    for got, want in zip(terms, by_hand(TARGET)):
        # Small surprisals are differences of numbers near 10, whose float32 rounding is absolute.
        np.testing.assert_allclose(got, (want * weights).sum(-1), rtol=1e-5, atol=2e-6)


def test_a_row_without_target_costs_nothing():
    nothing = jnp.zeros((B, L), bool)
    np.testing.assert_array_equal(loss(mask=nothing, positions="target").total(), jnp.zeros(B))


def test_each_example_is_on_its_own():
    """A batch of n is n batches of 1."""
    whole = loss(mask=TARGET)
    for i in range(B):
        row = slice(i, i + 1)
        draws = Draws(DRAWS.x_start_noise[row], DRAWS.q_noise[row])
        one = loss(ids=IDS[row], mask=TARGET[row], t=T_BATCH[row], draws=draws)
        for got, want in zip(one, whole):
            np.testing.assert_allclose(got, want[row], rtol=1e-5)


def test_a_perfect_network_has_no_error():
    """With the truth as its output, at t > 0."""
    x_start = sample_x_start(None, SCHEDULE, PARAMS["embedding"][IDS], noise=DRAWS.x_start_noise)
    perfect = TOY._replace(denoise=lambda *args, **kwargs: x_start)
    terms = diffusion_loss(None, perfect, PARAMS, SCHEDULE, IDS, TARGET, T_BATCH, draws=DRAWS)
    np.testing.assert_array_equal(terms.mse[1:], jnp.zeros(B - 1))
    assert terms.mse[0] > 0.01


def test_errors_at_little_noise_weigh_by_the_clipped_signal_to_noise_ratio():
    """Only the squared error of the network weighs more, and positions report it as it is."""
    plain = loss(by_position=True)
    weighed = loss(by_position=True, snr_weight=0.5, snr_clip=3.0)
    alpha_bar = SCHEDULE.alphas_cumprod[np.asarray(T_BATCH)]
    ratio = np.minimum(alpha_bar / (1 - alpha_bar), 3.0)
    assert ratio[0] == 3.0 > ratio[2]
    np.testing.assert_allclose(weighed.terms.mse, (1 + 0.5 * ratio) * plain.terms.mse, rtol=1e-5)
    for name in ("prior", "rounding_nll", "penalty"):
        np.testing.assert_array_equal(getattr(weighed.terms, name), getattr(plain.terms, name))
    np.testing.assert_array_equal(weighed.by_position, plain.by_position)


def test_every_position_weighs_by_its_own_noise():
    levels = jnp.linspace(0.0, 1.0, B * L).reshape(B, L)
    options = {"alpha_bar": levels, "by_position": True}
    plain = loss(**options)
    weights = 1 + 2 * np.minimum(levels / np.maximum(1 - levels, 1e-12), 5.0)
    expected = np.mean(weights * plain.by_position, axis=1)
    np.testing.assert_allclose(loss(**options, snr_weight=2.0).terms.mse, expected, rtol=1e-5)
    # Without any noise the weight is finite.
    assert weights[-1, -1] == 11.0


def test_eps_reads_the_output_as_noise():
    perfect = TOY._replace(denoise=lambda *args, **kwargs: DRAWS.q_noise)
    terms = diffusion_loss(
        *(None, perfect, PARAMS, SCHEDULE, IDS, EVERYWHERE, T_BATCH),
        draws=DRAWS,
        parameterization="eps",
    )
    np.testing.assert_array_equal(terms.mse[1:], jnp.zeros(B - 1))
    # At t = 0 what counts is the distance of the implied x_start from the embedding: sigma_0 noise.
    sigma_0 = SCHEDULE.sqrt_one_minus_alphas_cumprod[0]
    want = ((sigma_0 * DRAWS.x_start_noise[0]) ** 2).mean()
    np.testing.assert_allclose(terms.mse[0], want, rtol=1e-4)


def test_gradients_reach_the_embedding_through_every_term():
    for term in ("mse", "prior", "rounding_nll"):
        grads = jax.grad(lambda p, term=term: getattr(loss(p), term).sum())(PARAMS)
        assert float(jnp.abs(grads["embedding"]).max()) > 0, term


def test_nll_of_the_prediction_trains_the_network():
    def nll(params, nll_input):
        return loss(params, nll_input=nll_input).rounding_nll.sum()

    for nll_input, reaches in (("x_start", False), ("prediction", True)):
        mix = jax.grad(nll)(PARAMS, nll_input)["mix"]
        assert bool(jnp.any(mix != 0)) == reaches


def test_self_conditioning_sees_the_first_estimate_without_gradient():
    half = jnp.array([True, False, True, False])

    def mse(params, draws):
        return loss(params, draws=draws).mse

    plain = mse(PARAMS, DRAWS)
    conditioned = mse(PARAMS, DRAWS._replace(self_cond_mask=half))
    np.testing.assert_allclose(conditioned[~half], plain[~half], rtol=1e-6)
    assert np.all(np.abs(conditioned[half] - plain[half]) > 1e-4)

    embeddings = PARAMS["embedding"][IDS]
    x_start = sample_x_start(None, SCHEDULE, embeddings, noise=DRAWS.x_start_noise)
    x_t = q_sample(None, SCHEDULE, x_start, T_BATCH, noise=DRAWS.q_noise)
    time = extract(SCHEDULE.model_timesteps, T_BATCH, 1)
    estimate = denoise(PARAMS, x_t, time)

    def second_pass(mix):
        out = denoise({**PARAMS, "mix": mix}, x_t, time, estimate)
        target = jnp.where((T_BATCH == 0)[:, None, None], embeddings, x_start)
        return ((target - out) ** 2).mean(axis=(1, 2)).sum()

    always = DRAWS._replace(self_cond_mask=jnp.ones(B, bool))
    got = jax.grad(lambda p: mse(p, always).sum())(PARAMS)["mix"]
    np.testing.assert_allclose(got, jax.grad(second_pass)(PARAMS["mix"]), rtol=1e-4, atol=1e-6)


def test_self_conditioning_rate(key):
    half = jnp.full((B,), 50, jnp.int32)
    never = loss(key=key, draws=None, t=half)
    always = loss(key=jax.random.clone(key), draws=None, t=half, self_cond_rate=1.0)
    assert np.all(np.abs(always.mse - never.mse) > 1e-5)
    np.testing.assert_allclose(always.rounding_nll, never.rounding_nll, rtol=1e-6)


def test_self_conditioning_is_drawn_for_the_batch(key):
    """One coin for all rows, so that half of the batches save the first pass."""

    def mse(key, rate):
        return loss(key=key, draws=None, self_cond_rate=rate).mse

    keys = jax.random.split(key, 200)
    never, always, drawn = (
        jax.vmap(lambda k, r=r: mse(k, r))(jax.random.clone(keys)) for r in (0.0, 1.0, 0.3)
    )
    conditioned = np.isclose(drawn, always, rtol=1e-5).all(axis=1)
    np.testing.assert_allclose(drawn, np.where(conditioned[:, None], always, never), rtol=1e-5)
    # Four standard errors.
    assert abs(conditioned.mean() - 0.3) < 4 * (0.3 * 0.7 / 200) ** 0.5


@pytest.mark.parametrize(("conditions", "calls"), [(True, 2), (False, 1)])
def test_the_first_pass_is_made_only_where_it_is_seen(conditions, calls):
    made = []

    def counted(*arguments, **options):
        jax.debug.callback(lambda: made.append(1))
        return denoise(*arguments, **options)

    model = TOY._replace(denoise=counted)
    draws = DRAWS._replace(self_cond_mask=jnp.full(B, conditions))
    terms = jax.jit(lambda: diffusion_loss(None, model, PARAMS, SCHEDULE, IDS, TARGET, T_BATCH,
                                           draws=draws))()  # fmt: skip
    jax.block_until_ready(terms)
    jax.effects_barrier()
    assert len(made) == calls


def test_soft_absorbing_state():
    mean_embed = jnp.array([0.3, -0.4, 1.2])
    draws = DRAWS._replace(absorb_mask=jnp.broadcast_to(jnp.arange(L) % 2 == 0, (B, L)))
    terms = loss(mask=TARGET, draws=draws, mean_embed=mean_embed)
    np.testing.assert_allclose(terms.penalty, jnp.full(B, 0.01 * 1.3), rtol=1e-6)
    np.testing.assert_allclose(terms.total(), sum(terms), rtol=1e-6)
    assert np.all(terms.mse != loss(mask=TARGET, draws=draws).mse)
    at_zero = jax.grad(lambda m: loss(mask=TARGET, mean_embed=m).penalty.sum())(jnp.zeros(E))
    assert np.all(np.isfinite(at_zero))


def test_absorbed_tokens_are_drawn(key):
    def mse(rate):
        options = {"mean_embed": jnp.ones(E), "absorb_rate": rate}
        return loss(mask=TARGET, key=jax.random.clone(key), draws=None, **options).mse

    assert np.all(mse(1.0)[2:] != mse(0.0)[2:])


def test_noise_and_dropout_have_their_own_keys(key):
    noise_key, dropout_key, other = jax.random.split(key, 3)
    plain = loss(key=noise_key, draws=None)
    dropped = loss(key=jax.random.clone(noise_key), draws=None, dropout_key=dropout_key)
    np.testing.assert_array_equal(plain.rounding_nll, dropped.rounding_nll)
    assert np.all(plain.mse != dropped.mse)
    assert np.all(plain.rounding_nll != loss(key=other, draws=None).rounding_nll)


def test_jit_is_eager(key):
    def everything(params, key):
        keys = jax.random.split(key, 3)
        return (
            loss(params, key=keys[0], draws=None, self_cond_rate=0.5, dropout_key=keys[1]),
            variational_loss(keys[2], TOY, params, SCHEDULE, IDS, TARGET, T_BATCH),
        )

    eager = everything(PARAMS, key)
    jitted = jax.jit(everything)(PARAMS, jax.random.clone(key))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), jitted, eager)


def test_variational_loss_of_a_perfect_network_is_the_entropy_of_the_words():
    x_start = sample_x_start(None, SCHEDULE, PARAMS["embedding"][IDS], noise=DRAWS.x_start_noise)
    perfect = TOY._replace(denoise=lambda *args, **kwargs: x_start)
    terms = variational_loss(
        *(None, perfect, PARAMS, SCHEDULE, IDS, TARGET, T_BATCH),
        variance="fixed_small",
        draws=DRAWS,
    )
    np.testing.assert_allclose(terms.kl[1:], jnp.zeros(B - 1), atol=1e-3)
    weights = TARGET / TARGET.sum(-1, keepdims=True)
    want = (by_hand(TARGET)[2] * weights).sum(-1) * SCHEDULE.num_timesteps / E / np.log(2)
    np.testing.assert_allclose(terms.rounding_nll, want, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(terms.total(), sum(terms), rtol=1e-6)


def test_gaussian_kl():
    zero = jnp.zeros(())
    np.testing.assert_allclose(gaussian_kl(zero, zero, zero, zero), 0.0)
    np.testing.assert_allclose(gaussian_kl(zero + 2.0, zero, 0.0, 0.0), 2.0)
    np.testing.assert_allclose(
        gaussian_kl(zero, jnp.log(4.0), 0.0, 0.0), 0.5 * (4 - 1 - np.log(4)), rtol=1e-6
    )


def test_prediction_nll_scores_the_output(key):
    """A network that answers with the embeddings scores as the head does on them."""
    embeddings = PARAMS["embedding"][IDS]
    perfect = TOY._replace(denoise=lambda *args, **kwargs: embeddings)
    got = prediction_nll_loss(key, perfect, PARAMS, SCHEDULE, IDS, T_BATCH)
    logits = embeddings @ PARAMS["embedding"].T + PARAMS["bias"][None, None]
    log_probs = jax.nn.log_softmax(logits)
    want = -jnp.take_along_axis(log_probs, IDS[..., None], axis=-1)[..., 0].mean(-1)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "source"}, "positions='source'"),
        ({"parameterization": "v"}, "choose one of x_start, eps"),
        ({"nll_input": "x_t"}, "nll_input='x_t'"),
        ({"snr_weight": -1.0}, "snr_weight=-1.0"),
        ({"snr_weight": 1.0, "snr_clip": 0.0}, "snr_clip=0.0"),
        ({"snr_weight": 1.0, "parameterization": "eps"}, "errors of x_start"),
        ({"self_cond_rate": 1.5}, "self_cond_rate=1.5"),
        ({"absorb_rate": 0.5}, "mean_embed=True"),
        ({"mean_embed": jnp.ones(E), "parameterization": "eps"}, "'x_start' only"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        loss(**options)


def test_key_or_draws_but_not_both(key):
    for key_given, draws in ((key, DRAWS), (None, None)):
        with pytest.raises(ValueError, match="either a key or the draws"):
            loss(key=key_given, draws=draws)
