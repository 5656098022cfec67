import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import rounding
from diffusion_jax.types import RoundingHead

VOCAB, WIDTH = 53, 6
# Blocks smaller than, dividing, not dividing and larger than the vocabulary.
BLOCKS = [1, 8, 53, 64]


@pytest.fixture
def problem():
    keys = jax.random.split(jax.random.key(3), 4)
    head = RoundingHead(
        2 * jax.random.normal(keys[0], (VOCAB, WIDTH)), jax.random.normal(keys[1], (VOCAB,))
    )
    x = 3 * jax.random.normal(keys[2], (2, 7, WIDTH))
    ids = jax.random.randint(keys[3], (2, 7), 0, VOCAB)
    return head, x, ids


def plain_nll(head, x, ids):
    log_probs = jax.nn.log_softmax(rounding.logits(head, x), axis=-1)
    return -jnp.take_along_axis(log_probs, ids[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize("block", BLOCKS)
def test_token_nll_is_the_plain_cross_entropy(problem, block):
    head, x, ids = problem
    nll = rounding.token_nll(head, x, ids, block=block)
    np.testing.assert_allclose(nll, plain_nll(head, x, ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", BLOCKS)
def test_token_nll_gradients_are_those_of_the_plain_form(problem, block):
    head, x, ids = problem
    ids = ids.at[0].set(ids[0, 0])  # A repeated target: its contributions add up.
    weights = jnp.linspace(-1.0, 2.0, ids.size).reshape(ids.shape)

    def weighted(nll):
        return jax.grad(lambda head, x: jnp.sum(weights * nll(head, x, ids)), argnums=(0, 1))

    def blocked(head, x, ids):
        return rounding.token_nll(head, x, ids, block=block)

    ours, plain = weighted(blocked)(head, x), weighted(plain_nll)(head, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, plain)


def test_token_nll_is_finite_where_logits_are_huge(problem):
    head, x, ids = problem
    nll, gradient = jax.value_and_grad(
        lambda x: jnp.sum(rounding.token_nll(head, 1e4 * x, ids, block=8))
    )(x)
    assert np.isfinite(nll)
    assert np.isfinite(gradient).all()


def test_token_nll_jit_is_eager(problem):
    head, x, ids = problem
    jitted = jax.jit(rounding.token_nll)(head, x, ids)
    np.testing.assert_allclose(jitted, rounding.token_nll(head, x, ids), rtol=1e-6)


@pytest.mark.parametrize("block", BLOCKS)
def test_nearest_embedding_is_the_nearest(problem, block):
    head, x, _ = problem
    ids, vectors = rounding.nearest_embedding(x, head.weight, block=block)
    difference = np.asarray(x)[..., None, :] - np.asarray(head.weight)
    np.testing.assert_array_equal(ids, (difference**2).sum(-1).argmin(-1))
    np.testing.assert_array_equal(vectors, np.asarray(head.weight)[ids])
    assert ids.dtype == jnp.int32


def test_embeddings_are_their_own_nearest(problem):
    head, _, _ = problem
    ids, vectors = rounding.nearest_embedding(head.weight, head.weight, block=8)
    np.testing.assert_array_equal(ids, np.arange(VOCAB))
    np.testing.assert_array_equal(vectors, head.weight)


@pytest.mark.parametrize("block", BLOCKS)
def test_ties_go_to_the_lowest_index(problem, block):
    head, _, _ = problem
    table = jnp.concatenate([head.weight[:10]] * 3)
    ids, _ = rounding.nearest_embedding(table[20:], table, block=block)
    np.testing.assert_array_equal(ids, np.arange(10))


@pytest.mark.parametrize("block", BLOCKS)
def test_most_likely_ids_are_the_argmax(problem, block):
    head, x, _ = problem
    ids = rounding.most_likely_ids(head, x, block=block)
    np.testing.assert_array_equal(ids, jnp.argmax(rounding.logits(head, x), axis=-1))


def test_the_bias_decides_the_head_but_not_the_clamp(problem):
    head, x, _ = problem
    head = head._replace(bias=head.bias.at[5].set(1e3))
    assert (np.asarray(rounding.most_likely_ids(head, x)) == 5).all()
    assert (np.asarray(rounding.nearest_embedding(x, head.weight)[0]) != 5).any()


def test_no_gradient_crosses_the_clamp(problem):
    head, x, _ = problem
    gradient = jax.grad(lambda x: jnp.sum(rounding.nearest_embedding(x, head.weight)[1]))(x)
    np.testing.assert_array_equal(gradient, np.zeros(x.shape))


def test_mismatched_shapes_are_refused(problem):
    head, x, ids = problem
    with pytest.raises(ValueError, match="input_ids has shape"):
        rounding.token_nll(head, x, ids[:, :3])


def _temporary_bytes(function, *args):
    return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_memory_does_not_hold_all_logits():
    # Compiled, not run: B=8, L=128, V=30522, E=16.
    x = jax.ShapeDtypeStruct((8, 128, 16), jnp.float32)
    ids = jax.ShapeDtypeStruct((8, 128), jnp.int32)
    head = RoundingHead(
        jax.ShapeDtypeStruct((30522, 16), jnp.float32), jax.ShapeDtypeStruct((30522,), jnp.float32)
    )

    def gradient(nll):
        return jax.grad(lambda head, x, ids: jnp.mean(nll(head, x, ids)), argnums=(0, 1))

    blocked = _temporary_bytes(gradient(rounding.token_nll), head, x, ids)
    plain = _temporary_bytes(gradient(plain_nll), head, x, ids)
    assert plain >= 8 * blocked

    def plain_nearest(x, table):
        return table[jnp.argmin(-rounding.logits_l2(RoundingHead(table, table[:, 0]), x), axis=-1)]

    blocked = _temporary_bytes(rounding.nearest_embedding, x, head.weight)
    plain = _temporary_bytes(plain_nearest, x, head.weight)
    assert plain >= 8 * blocked


@pytest.mark.parametrize("block", [8, 64])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_posterior_mean_is_softmax_times_the_table(problem, block, temperature):
    head, x, _ = problem

    def plain(head, x):
        return jax.nn.softmax(rounding.logits(head, x) / temperature, axis=-1) @ head.weight

    def lean(head, x):
        return rounding.posterior_mean(head, x, temperature=temperature, block=block)

    np.testing.assert_allclose(lean(head, x), plain(head, x), rtol=2e-5, atol=2e-5)
    weights = jnp.cos(jnp.arange(x.size)).reshape(x.shape)
    got, want = (
        jax.grad(lambda head, x, f=f: jnp.sum(weights * f(head, x)), argnums=(0, 1))(head, x)
        for f in (lean, plain)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("block", [8, 64])
def test_the_neighbour_distance_is_that_of_the_nearest_other_row(problem, block):
    table = np.asarray(problem[0].weight, np.float64)
    squares = ((table[:, None] - table[None]) ** 2).sum(-1)
    np.fill_diagonal(squares, np.inf)
    found = rounding.mean_neighbour_distance(problem[0].weight, block=block)
    np.testing.assert_allclose(found, squares.min(axis=1).mean(), rtol=1e-5)
