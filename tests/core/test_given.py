"""Rows of which training gives a part: infilling and length control are no news to the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import keys
from diffusion_jax.config import DataConfig, DiffusionConfig, ExperimentConfig, SampleConfig
from diffusion_jax.errors import UserError
from diffusion_jax.forward import sample_given_mask
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.program import Program

PAD = 3
ROWS, LENGTH = 6000, 12


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of 4 to 12 tokens, their lengths, and what is given of them at rate 1."""
    lengths = np.random.default_rng(0).integers(4, LENGTH + 1, ROWS)
    ids = np.where(np.arange(LENGTH) < lengths[:, None], 7, PAD).astype(np.int32)
    given = sample_given_mask(jax.random.key(0), jnp.asarray(ids), PAD, 1.0)
    return ids, lengths, np.asarray(given)


def test_the_length_is_given_whole_or_not_at_all(drawn):
    ids, lengths, given = drawn
    position = np.arange(LENGTH)
    ends = (ids == PAD) | (position == 0) | (position == lengths[:, None] - 1)
    all_ends = np.where(ends, given, True).all(axis=1)
    no_ends = ~np.where(ends, given, False).any(axis=1)
    assert (all_ends | no_ends).all()
    # Three of four; 6,000 rows have a standard error of 0.0056.
    assert all_ends.mean() == pytest.approx(0.75, abs=0.02)


def test_words_are_given_in_three_ways(drawn):
    _, lengths, given = drawn
    long = lengths == LENGTH
    words = given[long][:, 1 : LENGTH - 1]
    hidden = ~words
    none_given = hidden.all(axis=1)
    # One in three is given nothing; a hole over all ten words (1 in 50) and a share near 0 too.
    assert none_given.mean() == pytest.approx(1 / 3 + (1 / 50 + 1 / 11) / 3, abs=0.06)
    # A hole is one stretch: it begins once.
    begins = (np.diff(hidden.astype(int), axis=1, prepend=0) == 1).sum(axis=1)
    assert (begins <= 1).mean() > 0.55
    # Scattered words leave holes in several places.
    assert (begins > 1).mean() > 0.15
    # Every place is hidden and every place is given now and then.
    assert (words.mean(axis=0) > 0.2).all()
    assert (words.mean(axis=0) < 0.7).all()


def test_a_hole_has_words_on_both_sides_often(drawn):
    _, lengths, given = drawn
    words = given[lengths == LENGTH][:, 1 : LENGTH - 1]
    both = words[:, 0] & words[:, -1] & ~words.all(axis=1)
    assert both.mean() > 0.2


def test_the_rate_is_the_share_of_rows():
    ids = jnp.full((4000, 6), 5)
    given = sample_given_mask(jax.random.key(1), ids, PAD, 0.25)
    # Rows that are given neither their ends nor a word look as if nothing had been given: a quarter
    # of those with no words.
    touched = np.asarray(given).any(axis=1).mean()
    assert 0.25 * 0.8 < touched < 0.25
    assert not sample_given_mask(jax.random.key(1), ids, PAD, 0.0).any()


def test_the_loss_noises_what_is_not_given():
    program, plain = (built(given_rate) for given_rate in (0.9, 0.0))
    params = program.model.init(jax.random.key(0))
    ids = jnp.asarray([[0, 5, 6, 7, 8, 1, PAD, PAD], [0, 5, 6, 1, PAD, PAD, PAD, PAD]])
    everywhere = jnp.ones(ids.shape, jnp.bool_)
    t = jnp.asarray([4, 2])
    got = jax.jit(program.loss)(
        params, jax.random.key(2), {"input_ids": ids, "noise_mask": everywhere}, t, None
    ).total()
    given = sample_given_mask(keys.stream(jax.random.key(2), "given"), ids, PAD, 0.9)
    assert given.any()
    assert not given.all(axis=1).any()
    loss = jax.jit(plain.loss)
    want = loss(
        params, jax.random.key(2), {"input_ids": ids, "noise_mask": ~given}, t, None
    ).total()
    np.testing.assert_allclose(got, want, rtol=1e-6)
    other = loss(
        params, jax.random.key(2), {"input_ids": ids, "noise_mask": everywhere}, t, None
    ).total()
    assert np.abs(other - want).max() > 1e-3


def built(given_rate: float) -> Program:
    """Return the program of a tiny model of single texts."""
    model = DenoiserConfig(
        vocab_size=10,
        embed_dim=4,
        hidden_dim=8,
        num_layers=1,
        num_heads=2,
        mlp_dim=8,
        max_length=8,
        time_dim=4,
        dropout=0.0,
        attention_dropout=0.0,
        pad_id=PAD,
    )
    diffusion = DiffusionConfig(timesteps=6, given_rate=given_rate)
    return Program.build(
        ExperimentConfig(
            data=DataConfig(length=8),
            model=model,
            diffusion=diffusion,
            sample=SampleConfig(steps=6),
        )
    )


@pytest.mark.parametrize(
    ("options", "task", "message"),
    [
        ({"given_rate": 1.0}, "text", "a share from 0 to below 1"),
        ({"given_rate": 0.5}, "pair", "sources are given anyway"),
        ({"given_rate": 0.5, "position_schedule": "adaptive"}, "text", "adaptive"),
    ],
)
def test_a_rate_that_means_nothing_is_refused(options, task, message):
    with pytest.raises(UserError, match=message):
        ExperimentConfig(data=DataConfig(task=task), diffusion=DiffusionConfig(**options))
