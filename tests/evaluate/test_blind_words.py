"""Words that a network gives back: a toy that sees some of them, and takes one for another."""

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.config import ExperimentConfig
from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.blind_words import word_recovery
from diffusion_jax.models.base import Model
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.schedules import make_schedule
from diffusion_jax.text.tokenizers import WordTokenizer
from diffusion_jax.types import RoundingHead

WORDS = WordTokenizer(["good", "poor", "fair"])
GOOD, POOR, FAIR = (WORDS.encode(word)[0] for word in ("good", "poor", "fair"))
V = max(GOOD, POOR, FAIR) + 1
TABLE = 4.0 * jnp.eye(V)
ROWS = np.array(
    [
        [WORDS.start_id, GOOD, POOR, WORDS.end_id, WORDS.pad_id],
        [WORDS.start_id, FAIR, POOR, GOOD, WORDS.end_id],
        [WORDS.start_id, GOOD, GOOD, WORDS.end_id, WORDS.pad_id],
    ],
    np.int32,
)


class Store:
    def __init__(self, noise_mask):
        self.noise_mask = noise_mask

    def __len__(self):
        return len(ROWS)

    def rows(self, index):
        return {"input_ids": ROWS[index], "noise_mask": self.noise_mask[index]}


EVERYWHERE = Store(np.ones(ROWS.shape, bool))


def program(*, self_conditioning=False, first_row_only=False):
    """Take "poor" for "good"; where it is given its own estimate, see that it was wrong."""
    unused: Any = None

    def denoise(params, x_t, time, self_cond=None, *, dropout_key=None):
        ids = jnp.argmax(x_t @ TABLE.T, axis=-1)
        wrong = ids == POOR
        if first_row_only:
            wrong &= jnp.arange(len(ids))[:, None] == 0
        return TABLE[ids if self_cond is not None else jnp.where(wrong, GOOD, ids)]

    model = Model(
        unused,
        lambda params, ids: TABLE[ids],
        lambda params: RoundingHead(TABLE, jnp.zeros(V)),
        denoise,
        unused,
    )
    spec = DenoiserConfig(self_conditioning=self_conditioning)
    config = ExperimentConfig(model=spec)
    return SimpleNamespace(schedule=make_schedule("sqrt", 2000), config=config, model=model)


@pytest.mark.parametrize("batch_size", [2, 3])
def test_the_words_that_are_taken_for_others_are_named(batch_size):
    found = word_recovery(program(), {}, EVERYWHERE, WORDS, batch_size=batch_size)
    assert found == (20, 5 / 7, ("poor",), 2, 3)


def test_a_word_that_is_given_back_in_half_of_its_places_is_not_blind():
    found = word_recovery(program(first_row_only=True), {}, EVERYWHERE, WORDS)
    assert found == (20, 6 / 7, (), 0, 3)


def test_only_what_is_generated_is_looked_at():
    mask = np.zeros(ROWS.shape, bool)
    mask[1, 1:3] = True
    found = word_recovery(program(), {}, Store(mask), WORDS)
    assert found == (20, 1 / 2, ("poor",), 1, 2)
    with pytest.raises(UserError, match="no words"):
        word_recovery(program(), {}, Store(np.zeros(ROWS.shape, bool)), WORDS)


def test_a_self_conditioned_network_sees_its_own_estimate():
    found = word_recovery(program(self_conditioning=True), {}, EVERYWHERE, WORDS)
    assert found == (20, 1.0, (), 0, 3)


def test_numbers_out_of_range_are_named():
    for options, message in (({"timestep": 2000}, "0 to 1999"), ({"num_rows": 0}, "num_rows=0")):
        with pytest.raises(UserError, match=message):
            word_recovery(program(), {}, EVERYWHERE, WORDS, **options)
