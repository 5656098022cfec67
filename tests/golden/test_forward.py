"""The noisy latents that the originals train on."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.forward import (
    q_sample,
    q_sample_soft_absorbing,
    sample_x_start,
)
from diffusion_jax.schedules import extract, make_schedule
from tests.golden.torch_params import DATA, load_params


def load(name: str, case: str, first: str):
    with np.load(DATA / f"{name}_loss.npz") as arrays:
        arrays = dict(arrays)
    model, params = load_params(DATA / f"{name}_model.npz")
    schedule = make_schedule("sqrt", int(arrays["T"]))
    embeddings = model.embed(params, jnp.asarray(arrays["ids"]))
    x_start = sample_x_start(
        None, schedule, embeddings, noise=jnp.asarray(arrays[f"{first}/draw0_x0_noise"])
    )
    t, noise = jnp.asarray(arrays["t"], jnp.int32), jnp.asarray(arrays[f"{first}/draw1_q_noise"])
    prefix = f"{case}/"
    recorded = {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
    mask = jnp.asarray(arrays["mask"], bool) if "mask" in arrays else None
    return params, schedule, x_start, t, noise, mask, recorded


@pytest.mark.parametrize(("name", "case"), [("dlm", "e2e_xstart"), ("dseq", "xstart")])
def test_q_sample(name, case):
    _, schedule, x_start, t, noise, mask, recorded = load(name, case, case)
    x_t = q_sample(None, schedule, x_start, t, mask, noise=noise)
    np.testing.assert_allclose(x_t, recorded["x_t"], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(extract(schedule.model_timesteps, t, 1), recorded["t_model"])
    np.testing.assert_allclose(schedule.sqrt_one_minus_alphas_cumprod[0], recorded["sigma0"])


@pytest.mark.parametrize("case", ["mean_embed", "mean_embed_denoise"])
def test_q_sample_soft_absorbing(case):
    params, schedule, x_start, t, noise, mask, recorded = load("dseq2", case, "plain")
    absorb = recorded.get("draw2_absorb_mask")
    x_t = q_sample_soft_absorbing(
        *(None, schedule, x_start, t, mask, params["mean_embed"]),
        None if absorb is None else jnp.asarray(absorb, bool),
        noise=noise,
    )
    np.testing.assert_allclose(x_t, recorded["x_t"], rtol=1e-6, atol=2e-6)


def test_absorb_rate():
    _, schedule, _, t, _, _, recorded = load("dseq2", "mean_embed_denoise", "plain")
    rate = 0.5 * extract(schedule.sqrt_one_minus_alphas_cumprod, t, 2)
    want = recorded["bernoulli_rate"]
    np.testing.assert_allclose(jnp.broadcast_to(rate, want.shape), want, rtol=1e-6)
