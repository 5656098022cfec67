import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.models.base import bind
from diffusion_jax.models.inputs import timestep_embedding
from diffusion_jax.models.layers import dropout, neighbour_bias, toeplitz
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.models.transformer import transformer_denoiser

SPEC = DenoiserConfig(
    vocab_size=31,
    embed_dim=8,
    hidden_dim=16,
    num_layers=3,
    num_heads=2,
    mlp_dim=24,
    max_length=12,
    time_dim=8,
)
EVERY_OPTION = {"norm": "pre", "self_conditioning": True, "mean_embed": True}
OPTIONS = {"published": {}, "options": EVERY_OPTION, "no projection": {"embed_dim": 16}}


@functools.cache
def _build(options):
    model = transformer_denoiser(dataclasses.replace(SPEC, **dict(options)))
    params = jax.tree.map(_random_like, jax.eval_shape(model.init, jax.random.key(1)))
    x = jax.random.normal(jax.random.key(2), (2, 5, params["embedding"].shape[1]))
    return model._replace(denoise=jax.jit(model.denoise)), params, x


def _random_like(leaf):
    # Quicker than to compile an initialiser; every array is different from 0 and from 1.
    values = np.random.default_rng(leaf.size).normal(size=leaf.shape)
    return jnp.asarray(0.4 * values, jnp.float32)


def build(**options):
    """Return a model with its denoiser compiled, its parameters and some latents."""
    return _build(tuple(sorted(options.items())))


TIME = jnp.array([0.5, 700.0])


def test_scan_and_jit_are_a_python_loop_over_layers():
    model, params, x = build(**EVERY_OPTION)
    out = model.denoise(params, x, TIME)
    assert out.shape == x.shape
    assert out.dtype == jnp.float32
    with jax.disable_jit():  # This also turns the scan over layers into a loop.
        np.testing.assert_allclose(model.denoise(params, x, TIME), out, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_logical_axes_name_every_dimension(options):
    model = transformer_denoiser(dataclasses.replace(SPEC, **options))
    params = jax.eval_shape(model.init, jax.random.key(0))
    axes = model.logical_axes()
    names = jax.tree.leaves(axes, is_leaf=lambda node: isinstance(node, tuple))
    assert jax.tree.structure(params) == jax.tree.structure(
        axes, is_leaf=lambda node: isinstance(node, tuple)
    )
    assert [len(n) for n in names] == [leaf.ndim for leaf in jax.tree.leaves(params)]
    layers = axes["network"]["layers"]
    assert layers["attention"]["qkv"]["kernel"] == ("layers", "embed", None, "heads", "kv")
    assert layers["mlp"]["out"]["kernel"] == ("layers", "mlp", "embed")
    assert axes["embedding"] == ("vocab", None)


@pytest.mark.parametrize("remat", ["dots", pytest.param("full", marks=pytest.mark.slow)])
def test_remat_changes_nothing(remat):
    key = jax.random.key(5)
    plain, params, x = build(remat="none")
    saving, _, _ = build(remat=remat)

    def gradient(model):
        def loss(params):
            return jnp.sum(model.denoise(params, x, TIME, dropout_key=key) ** 2)

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradient(saving),
        gradient(plain),
    )


def test_bfloat16_is_close_and_keeps_float32_at_the_ends():
    exact, params, x = build()
    rounded, other, _ = build(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(other)} == {jnp.dtype("float32")}
    out, reference = rounded.denoise(params, x, TIME), exact.denoise(params, x, TIME)
    assert out.dtype == jnp.float32
    error = np.abs(out - reference).max()
    # bfloat16 has 8 bits: errors of a few times 2^-8 of the values, and not none.
    assert 0 < error < 0.05 * np.abs(reference).max()


def test_dropout_is_off_without_a_key_and_follows_the_key():
    model, params, x = build()
    still = model.denoise(params, x, TIME)
    np.testing.assert_array_equal(model.denoise(params, x, TIME), still)
    one, same, two = (
        model.denoise(params, x, TIME, dropout_key=jax.random.key(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - two).max() > 1e-3
    assert np.abs(one - still).max() > 1e-3


@pytest.mark.parametrize("option", ["dropout", "attention_dropout"])
def test_each_dropout_acts_alone(option):
    off = {"dropout": 0.0, "attention_dropout": 0.0}
    _, params, x = build()
    key = jax.random.key(1)
    still = build()[0].denoise(params, x, TIME)
    model, _, _ = build(**{**off, option: 0.5})
    assert np.abs(model.denoise(params, x, TIME, dropout_key=key) - still).max() > 1e-3


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("width", [64, 61])
def test_dropout_rate_and_expectation(rate, width):
    x = jnp.ones((64, 64, width))
    out = np.asarray(dropout(jax.random.key(0), x, rate))
    used = round(rate * 256) / 256
    spread = np.sqrt(used * (1 - used) / x.size)
    assert abs((out == 0).mean() - used) < 5 * spread
    kept = out[out != 0]
    np.testing.assert_allclose(kept, 1 / (1 - used), rtol=1e-6)
    # Neighbours share a random word, but not their fate.
    dropped = out == 0
    together = (dropped[..., 0::2][..., : width // 2] & dropped[..., 1::2]).mean()
    assert abs(together - used**2) < 5 * np.sqrt(used**2 / (x.size / 2))


def test_a_tiny_dropout_rate_is_no_dropout():
    x = jnp.ones((3, 8))
    np.testing.assert_array_equal(dropout(jax.random.key(0), x, 0.001), x)


def test_positions_beyond_the_sequence_do_not_matter():
    model, params, x = build()
    table = params["network"]["positions"]
    changed = {**params["network"], "positions": table.at[x.shape[1] :].set(1e3)}
    np.testing.assert_array_equal(
        model.denoise({**params, "network": changed}, x, TIME), model.denoise(params, x, TIME)
    )


def test_sequences_longer_than_the_position_table_are_refused():
    model, params, _ = build()
    with pytest.raises(ValueError, match="13 positions; the position table has 12"):
        model.denoise(params, jnp.zeros((1, 13, 8)), TIME[:1])


def test_no_self_conditioning_is_conditioning_on_zeros():
    model, params, x = build(**EVERY_OPTION)
    zeros = model.denoise(params, x, TIME, jnp.zeros_like(x))
    np.testing.assert_array_equal(model.denoise(params, x, TIME), zeros)
    assert np.abs(model.denoise(params, x, TIME, jnp.ones_like(x)) - zeros).max() > 1e-3


def test_self_conditioning_must_be_switched_on():
    model, params, x = build()
    with pytest.raises(ValueError, match="without self-conditioning"):
        model.denoise(params, x, TIME, x)


def test_examples_of_a_batch_do_not_see_each_other():
    model, params, x = build()
    alone = model.denoise(params, x[1:], TIME[1:])
    np.testing.assert_allclose(model.denoise(params, x, TIME)[1:], alone, atol=2e-6)


def test_every_parameter_of_the_network_receives_a_gradient():
    model, params, x = build(**EVERY_OPTION)
    weights = jax.random.normal(jax.random.key(3), x.shape)

    def loss(network):
        return jnp.sum(weights * model.denoise({**params, "network": network}, x, TIME, x))

    gradients = jax.jit(jax.grad(loss))(params["network"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.abs(leaf).max() > 1e-6, path


def test_torch_init_is_uniform_in_the_fan_in():
    model = transformer_denoiser(dataclasses.replace(SPEC, init="torch", mlp_dim=256))
    params = jax.jit(model.init)(jax.random.key(0))
    layers = params["network"]["layers"]
    for linear, fan_in in [
        (layers["attention"]["qkv"], 16),
        (layers["attention"]["out"], 16),
        (layers["mlp"]["in"], 16),
        (layers["mlp"]["out"], 256),
        (params["network"]["time_out"], 32),
    ]:
        bound = fan_in**-0.5
        for leaf in linear.values():
            assert 0.8 * bound < np.abs(leaf).max() <= bound
            assert abs(np.std(leaf) - bound / np.sqrt(3)) < 0.25 * bound
    assert not np.array_equal(*layers["mlp"]["in"]["kernel"][:2])
    assert 0.9 < np.std(params["network"]["positions"]) < 1.1
    assert np.abs(params["head_bias"]).max() <= 8**-0.5


def test_bind_fixes_the_parameters():
    model, params, x = build()
    np.testing.assert_array_equal(bind(model, params)(x, TIME), model.denoise(params, x, TIME))


def test_timestep_embedding_has_cosines_first_and_an_odd_zero():
    features = timestep_embedding(jnp.array([0.0, 1.0]), 5)
    np.testing.assert_allclose(features[0], [1, 1, 0, 0, 0])
    np.testing.assert_allclose(features[1, [0, 2]], [np.cos(1), np.sin(1)], rtol=1e-6)


def test_the_vocabulary_must_be_known():
    with pytest.raises(UserError, match="vocab_size is not set"):
        transformer_denoiser(DenoiserConfig())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 7}, "num_heads is 7; it must be a divisor of hidden_dim"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be in"),
        ({"num_layers": 0}, "num_layers is 0; it must be an integer of at least 1"),
        ({"norm": "batch"}, "norm = 'batch' is not allowed; give one of 'post', 'pre'"),
        ({"attention_impl": "cudnn"}, "dtype is 'float32'; it must be bfloat16"),
        (
            {"attention_impl": "cudnn", "dtype": "bfloat16"},
            "attention_dropout is 0.1; it must be 0",
        ),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0"),
    ],
)
def test_impossible_networks_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DenoiserConfig(**options)


def test_relative_positions_follow_the_distance_and_begin_with_neighbours():
    model, _, x = build(relative_positions="local")
    params = model.init(jax.random.key(3))
    bias = params["network"]["layers"]["attention"]["distance_bias"]
    assert bias.shape == (3, 2, 23)  # Layers, heads, distances from -11 to 11.
    assert (jnp.argmax(bias, axis=-1) - 11 == jnp.array([[-1, 1]] * 3)).all()
    mixed = neighbour_bias("mixed")(jax.random.key(0), (4, 23))
    assert (jnp.argmax(mixed[::2], axis=-1) - 11).tolist() == [-1, 1]
    assert not mixed[1::2].any()
    written_out = np.array(
        [[[bias[0, h, 11 + j - i] for j in range(5)] for i in range(5)] for h in range(2)]
    )
    np.testing.assert_array_equal(toeplitz(bias[0][:, 11 - 4 : 11 + 5]), written_out)
    # One layer that looks two places on; the last two places have nowhere to look but everywhere.
    model, params, x = build(relative_positions="local", num_layers=1)
    only_two = jnp.full((1, 2, 23), -1e9).at[:, :, 11 + 2].set(0.0)
    params["network"]["layers"]["attention"]["distance_bias"] = only_two
    nudged = x.at[:, 4].add(1.0)
    moved = jnp.any(model.denoise(params, x, TIME) != model.denoise(params, nudged, TIME), (0, 2))
    assert moved.tolist() == [False, False, True, True, True]


def test_the_fused_kernel_knows_no_relative_positions():
    with pytest.raises(UserError, match="relative_positions"):
        dataclasses.replace(
            SPEC,
            relative_positions="local",
            attention_impl="cudnn",
            dtype="bfloat16",
            attention_dropout=0.0,
        )
