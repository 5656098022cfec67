"""Diffusion-LM's bits per dimension, term by term, on its recorded draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.evaluate.likelihood import BoundDraws, kl_by_timestep, likelihood_bound
from diffusion_jax.forward import sample_x_start
from diffusion_jax.models.base import bind
from diffusion_jax.schedules import make_schedule
from tests.golden.torch_params import DATA, load_params

VARIANCES = {"small": "fixed_small", "small_clamp": "fixed_small", "large": "fixed_large"}


@pytest.mark.parametrize("case", VARIANCES)
def test_bits_per_dimension(case):
    with np.load(DATA / "elbo.npz") as file:
        arrays = dict(file)
    model, params = load_params(DATA / "dlm_model.npz")
    schedule = make_schedule("sqrt", int(arrays["T"]))
    ids = jnp.asarray(arrays["ids"], jnp.int32)
    # The original goes down from T-1, this bound goes up.
    draws = BoundDraws(
        jnp.asarray(arrays[f"{case}/x0_noise"]), jnp.asarray(arrays[f"{case}/q_noise"][::-1])
    )
    clamp, options = case == "small_clamp", {"variance": VARIANCES[case]}
    embeds, head = model.embed(params, ids), model.head(params)

    @jax.jit
    def measure(key):
        terms = likelihood_bound(
            key, model, params, schedule, ids, clamp=clamp, draws=draws, **options
        )
        kl = kl_by_timestep(
            key,
            bind(model, params),
            schedule,
            embeds,
            sample_x_start(None, schedule, embeds, noise=draws.x_start_noise),
            jnp.broadcast_to(jnp.arange(20)[:, None], (20, 2)),
            noise_mask=jnp.ones(ids.shape, bool),
            clamp_to=head.weight if clamp else None,
            q_noise=draws.q_noise,
            **options,
        )
        return terms, kl

    terms, kl = measure(jax.random.key(0))
    nats_per_bit_per_dimension = np.log(2) * embeds[0].size
    golden = arrays[f"{case}/vb"] * nats_per_bit_per_dimension
    # Squared distances of float32 vectors over variances down to 0.05, summed over 192 numbers.
    tolerance = {"rtol": 2e-5, "atol": 2e-3}
    np.testing.assert_allclose(terms.prior, golden[:, 0], **tolerance)
    np.testing.assert_allclose(kl.T, golden[:, -2:0:-1], **tolerance)
    np.testing.assert_allclose(terms.rounding_nll, golden[:, -1], **tolerance)
    np.testing.assert_allclose(terms.diffusion, golden[:, 1:-1].sum(-1), **tolerance)
    total = arrays[f"{case}/total_bpd"] * nats_per_bit_per_dimension
    np.testing.assert_allclose(terms.total(), total, **tolerance)
