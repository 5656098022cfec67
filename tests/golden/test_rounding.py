"""Rounding of the originals: nearest embedding, tied logits, distances as logits."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import rounding
from diffusion_jax.types import RoundingHead
from tests.golden.torch_params import DATA

TOLERANCE = 1e-5
BLOCKS = [7, 97, 2048]


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "rounding.npz") as arrays:
        return {name: arrays[name] for name in arrays}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("case", ["near", "far", "exact"])
def test_nearest_embedding(golden, case, block):
    x, embedding = jnp.asarray(golden[f"{case}/x"]), jnp.asarray(golden["embedding"])
    ids, vectors = rounding.nearest_embedding(x, embedding, block=block)
    np.testing.assert_array_equal(ids, golden[f"{case}/tokens"])
    np.testing.assert_array_equal(vectors, golden[f"{case}/rounded"])


@pytest.mark.parametrize("case", ["near", "far", "exact"])
def test_logits(golden, case):
    x = jnp.asarray(golden[f"{case}/x"])
    head = RoundingHead(jnp.asarray(golden["embedding"]), jnp.asarray(golden["lm_head_bias"]))
    scores = rounding.logits(head, x)
    np.testing.assert_allclose(
        scores, golden[f"{case}/lm_head_logits"], rtol=TOLERANCE, atol=TOLERANCE
    )
    np.testing.assert_array_equal(
        rounding.most_likely_ids(head, x, block=7), golden[f"{case}/lm_head_tokens"]
    )


@pytest.mark.parametrize("case", ["near", "far", "exact"])
def test_logits_l2(golden, case):
    head = RoundingHead(jnp.asarray(golden["embedding"]), jnp.asarray(golden["lm_head_bias"]))
    scores = rounding.logits_l2(head, jnp.asarray(golden[f"{case}/x"]))
    # Squared, because the root turns a rounding error of 1e-6 beside zero into 1e-3.
    np.testing.assert_allclose(
        np.square(scores),
        np.square(golden[f"{case}/logits_mode2"]),
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )


def test_equal_rows_round_to_the_same_vector(golden):
    x, embedding = jnp.asarray(golden["tie/x"]), jnp.asarray(golden["tie/embedding"])
    _, vectors = rounding.nearest_embedding(x, embedding, block=7)
    np.testing.assert_array_equal(vectors, golden["tie/rounded"])
