"""Sinusoidal time features of the originals."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.inputs import timestep_embedding
from tests.golden.torch_params import DATA

# float32 sines of arguments up to 1000: one rounding of the argument moves them by 6e-5.
TOLERANCE = 1e-4


@pytest.mark.parametrize("dim", [2, 15, 16, 128])
def test_timestep_embedding(dim):
    with np.load(DATA / "timestep_embedding.npz") as arrays:
        features = timestep_embedding(jnp.asarray(arrays["t"]), dim)
        np.testing.assert_allclose(features, arrays[f"dim{dim}"], atol=TOLERANCE)


def test_max_period():
    with np.load(DATA / "timestep_embedding.npz") as arrays:
        features = timestep_embedding(jnp.asarray(arrays["t"]), 16, max_period=100)
        np.testing.assert_allclose(features, arrays["dim16_max_period100"], atol=TOLERANCE)
