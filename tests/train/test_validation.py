"""Validation looks at all noise levels alike, whatever the batch size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.train.validation import make_validation

T = 1000


class Terms(NamedTuple):
    """One term."""

    t: jax.Array

    def total(self):
        return self.t


class Batches:
    """Rows numbered from 0; the last batch is filled up with rows of weight 0."""

    def __init__(self, num_rows, batch_size):
        self.num_rows, self.batch_size = num_rows, batch_size

    def __len__(self):
        return -(-self.num_rows // self.batch_size)

    def batch_at(self, index):
        number = index * self.batch_size + np.arange(self.batch_size)
        return {"number": number, "weight": (number < self.num_rows).astype(np.float32)}


def looked_at(num_rows, batch_size, value):
    """Return the mean of a function of the share t / T over all rows."""

    def loss(params, key, batch, t, dropout_key):
        return Terms(value(t / T))

    batches = Batches(num_rows, batch_size)
    validate = make_validation(loss, batches, num_timesteps=T, place=lambda batch: batch)
    return validate({})["t"]


@pytest.mark.parametrize(("num_rows", "batch_size"), [(1000, 8192), (1000, 64), (90, 32), (64, 64)])
def test_every_noise_level_counts_alike(num_rows, batch_size):
    assert looked_at(num_rows, batch_size, lambda u: u) == pytest.approx(0.5, abs=1.5 / num_rows)
    assert looked_at(num_rows, batch_size, lambda u: u**2) == pytest.approx(
        1 / 3, abs=1.5 / num_rows
    )
    first = looked_at(num_rows, batch_size, lambda u: (u < 0.1).astype(jnp.float32))
    assert first == pytest.approx(0.1, abs=2 / num_rows)


def test_a_row_looks_at_one_level_whatever_the_batch_size():
    small, large = (looked_at(300, size, lambda u: u**3) for size in (32, 300))
    assert small == pytest.approx(large, rel=1e-5)
