"""The networks of Diffusion-LM, DiffuSeq and DiffuSeq-v2, on the originals' weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import rounding
from diffusion_jax.convert.names import to_original
from tests.golden.torch_params import DATA, load_params, load_spec, original_arrays

NETWORKS = ["dseq_model", "dseq_noproj_model", "dlm_model", "dseq2_model"]
# The originals differ from their own float64 run by about 1e-6 here.
TOLERANCE = 1e-5


@pytest.fixture(params=NETWORKS, scope="module")
def golden(request):
    path = DATA / f"{request.param}.npz"
    model, params = load_params(path)
    with np.load(path) as arrays:
        return model, params, dict(arrays), load_spec(path)


def test_forward(golden):
    model, params, arrays, _ = golden
    out = jax.jit(model.denoise)(params, jnp.asarray(arrays["x"]), jnp.asarray(arrays["t"]))
    np.testing.assert_allclose(out, arrays["forward"], atol=TOLERANCE)
    np.testing.assert_allclose(out, arrays["forward_float64"], atol=TOLERANCE)


def test_forward_of_a_shorter_sequence(golden):
    model, params, arrays, _ = golden
    half = arrays["x"].shape[1] // 2
    x, time = jnp.asarray(arrays["x"][:, :half]), jnp.asarray(arrays["t"])
    out = jax.jit(model.denoise)(params, x, time)
    np.testing.assert_allclose(out, arrays["forward_short"], atol=TOLERANCE)


def test_embed_and_logits(golden):
    model, params, arrays, _ = golden
    ids, x = jnp.asarray(arrays["ids"], jnp.int32), jnp.asarray(arrays["x"])
    np.testing.assert_array_equal(model.embed(params, ids), arrays["embeds"])
    head = model.head(params)
    np.testing.assert_allclose(
        rounding.logits(head, x), arrays["logits"], rtol=TOLERANCE, atol=TOLERANCE
    )
    np.testing.assert_allclose(
        rounding.logits_l2(head, x), arrays["logits_mode2"], rtol=TOLERANCE, atol=TOLERANCE
    )


def test_names_go_both_ways(golden):
    _, params, arrays, spec = golden
    original = original_arrays(arrays)
    del original["position_ids"]
    back = to_original(params, spec)
    assert back.keys() == original.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_golden_tree_is_the_tree_that_init_makes(golden):
    model, params, _, _ = golden
    made = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, made)
