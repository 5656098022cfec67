"""Classifier-free guidance: sources that are hidden in training, and weighed in a chain."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.chain import make_reverse
from diffusion_jax.config import DataConfig, DiffusionConfig, ExperimentConfig, SampleConfig
from diffusion_jax.errors import UserError
from diffusion_jax.losses import diffusion_loss
from diffusion_jax.losses.terms import Draws, resolve_draws
from diffusion_jax.models.base import Model
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.schedules import make_schedule
from diffusion_jax.types import RoundingHead

SCHEDULE = make_schedule("sqrt", 10)
VOCAB = 7
TABLE = jnp.eye(VOCAB)
IDS = jnp.array([[1, 2, 3, 4], [5, 6, 1, 2]])
MASK = jnp.array([[False, True, True, True], [False, False, True, True]])


def denoise(params, x_t, time, self_cond=None, *, dropout_key=None):
    """Say at every position what the first one holds: the source decides everything."""
    return jnp.broadcast_to(params["scale"] * x_t[:, :1], x_t.shape)


MODEL = Model(
    init=lambda key: {"scale": jnp.ones(())},
    embed=lambda params, ids: TABLE[ids],
    head=lambda params: RoundingHead(TABLE, 0.1 * jnp.eye(VOCAB)[3]),
    denoise=denoise,
    logical_axes=dict,
)
PARAMS = {"scale": jnp.ones(())}


def test_a_dropped_source_is_not_seen():
    """The network's answer is the source; hidden, it is nothing, and the error is the target's."""
    draws = Draws(jnp.zeros((2, 4, VOCAB)), jnp.zeros((2, 4, VOCAB)))
    hidden = draws._replace(source_drop_mask=jnp.array([True, False]))
    seen, dropped = (
        diffusion_loss(
            None, MODEL, PARAMS, SCHEDULE, IDS, MASK, jnp.array([3, 3]), positions="target", draws=d
        )
        for d in (draws, hidden)
    )
    np.testing.assert_allclose(seen.mse, 2 / VOCAB, rtol=1e-5)
    np.testing.assert_allclose(dropped.mse, [1 / VOCAB, 2 / VOCAB], rtol=1e-5)


def test_the_rate_is_a_share_of_examples_and_moves_no_other_draw(key):
    like, t = jnp.zeros((4000, 1, 1)), jnp.zeros((4000,), jnp.int32)
    rates = {"self_cond_rate": 0.5}
    one, two = jax.random.clone(key), jax.random.clone(key)
    plain = resolve_draws(one, None, SCHEDULE, like, t, **rates)
    dropping = resolve_draws(two, None, SCHEDULE, like, t, **rates, source_drop_rate=0.2)
    assert abs(float(dropping.source_drop_mask.mean()) - 0.2) < 0.03
    for got, want in zip(dropping[:4], plain[:4]):
        np.testing.assert_array_equal(got, want)


def test_what_is_dropped_cannot_be_predicted(key):
    with pytest.raises(UserError, match="positions='target'"):
        diffusion_loss(
            key, MODEL, PARAMS, SCHEDULE, IDS, MASK, jnp.array([3, 3]), source_drop_rate=0.1
        )


@pytest.mark.parametrize(("scale", "words"), [(0.0, [3, 3]), (0.05, [3, 3]), (3.0, [1, 5])])
def test_the_scale_weighs_the_source(scale, words):
    """Without the source the answer is 0 and the head's bias wins; a scale of 0.05 is below it."""
    options = SampleConfig(
        sampler="ddim", steps=3, clamp="none", guidance_scale=scale, rounding="head"
    )
    spec = DenoiserConfig(vocab_size=VOCAB, embed_dim=VOCAB)
    keys = jax.random.split(jax.random.key(0), 2)
    written = make_reverse(MODEL, spec, SCHEDULE, options)(PARAMS, keys, IDS, MASK)
    np.testing.assert_array_equal(written[:, 2:], np.array(words)[:, None].repeat(2, 1))
    np.testing.assert_array_equal(written[~MASK], IDS[~MASK])


def tells_its_estimate(params, x_t, time, self_cond=None, *, dropout_key=None):
    """Say at every position what the estimate holds at the first one; without one, the source."""
    said = params["scale"] * x_t[:, :1]
    if self_cond is not None:
        said = jnp.where(jnp.any(self_cond != 0), self_cond[:, :1], said)
    return jnp.broadcast_to(said, x_t.shape)


def test_no_estimate_tells_a_network_of_a_source_that_it_is_not_shown():
    """An estimate that a network makes of the source's own positions holds the source."""
    model = MODEL._replace(denoise=tells_its_estimate)
    options = SampleConfig(
        sampler="ddim", steps=6, clamp="none", guidance_scale=0.5, rounding="head"
    )
    spec = DenoiserConfig(vocab_size=VOCAB, embed_dim=VOCAB, self_conditioning=True)
    keys = jax.random.split(jax.random.key(0), 2)
    written = make_reverse(model, spec, SCHEDULE, options)(PARAMS, keys, IDS, MASK)
    # Told nothing, it answers 0: each step halves what is left of the source, and the head's bias
    # wins. Told of it, it agrees with the other one from the second step on.
    np.testing.assert_array_equal(written[:, 2:], 3)


def test_nor_in_training():
    model = MODEL._replace(denoise=tells_of_any_estimate)
    draws = Draws(
        jnp.zeros((2, 4, VOCAB)),
        jnp.zeros((2, 4, VOCAB)),
        self_cond_mask=jnp.array([True, True]),
        source_drop_mask=jnp.array([True, False]),
    )
    loss = diffusion_loss(
        None, model, PARAMS, SCHEDULE, IDS, MASK, jnp.array([3, 3]), positions="target", draws=draws
    )
    # The first row's estimate of its given position is hidden: the answer is 0, the error its own.
    np.testing.assert_allclose(loss.mse[0], 1 / VOCAB, rtol=1e-5)
    assert float(loss.mse[1]) > 2 / VOCAB


def tells_of_any_estimate(params, x_t, time, self_cond=None, *, dropout_key=None):
    """Estimate ones everywhere at first; then say what that estimate holds at the first place."""
    first = jnp.ones_like(x_t)
    again = jnp.broadcast_to(3.0 * self_cond[:, :1], x_t.shape)
    return jnp.where(jnp.any(self_cond != 0), again, first)


def test_the_scale_needs_a_model_that_saw_missing_sources():
    pairs = ExperimentConfig(data=DataConfig(corpus="grammar:small/data_to_text", task="pair"))
    with pytest.raises(UserError, match="source-drop-rate"):
        replace(pairs, sample=SampleConfig(guidance_scale=2.0))
    dropping = DiffusionConfig(source_drop_rate=0.1, positions="target")
    replace(pairs, diffusion=dropping, sample=SampleConfig(guidance_scale=2.0))
    with pytest.raises(UserError, match="no source"):
        ExperimentConfig(diffusion=dropping)
    with pytest.raises(UserError, match="positions target"):
        DiffusionConfig(source_drop_rate=0.1)
