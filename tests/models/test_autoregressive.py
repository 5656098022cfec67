import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.models.autoregressive import autoregressive_transformer, row_keys, write
from diffusion_jax.models.shape import AutoregressiveConfig
from diffusion_jax.train.next_token_loss import make_next_token_loss, scored_positions

V, L, END, PAD = 5, 6, 1, 3
SPEC = AutoregressiveConfig(
    vocab_size=V, max_length=L, hidden_dim=8, num_layers=2, num_heads=2, mlp_dim=8
)


@functools.cache
def build():
    model = autoregressive_transformer(SPEC)
    # Quicker than to compile an initialiser.
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.asarray(0.5 * random.normal(size=x.shape), x.dtype), shapes)
    return model, params, jax.jit(model.nll), jax.jit(model.next_logits)


def rows(count, length=L):
    return jnp.asarray(np.random.default_rng(1).integers(0, V, (count, length)), jnp.int32)


def test_the_probabilities_of_all_continuations_sum_to_one():
    _, params, nll, _ = build()
    length = 3
    everything = np.stack(np.meshgrid(*[np.arange(V)] * length, indexing="ij"), -1)
    ids = jnp.asarray(everything.reshape(-1, length), jnp.int32)
    ids = jnp.pad(ids, ((0, 0), (1, L - 1 - length)))
    total = jnp.sum(jnp.exp(-jnp.sum(nll(params, ids)[:, :length], axis=1)))
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_no_position_sees_the_future():
    _, params, nll, _ = build()
    ids = rows(4)
    changed = ids.at[:, 3].set((ids[:, 3] + 1) % V)
    before, after = nll(params, ids), nll(params, changed)
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert np.all(np.abs(before[:, 3:] - after[:, 3:]) > 1e-6)


def test_the_cache_computes_the_same():
    model, params, nll, next_logits = build()
    ids = rows(4)
    cache, found = model.empty_cache(4), []
    for i in range(L - 1):
        cache, scores = next_logits(params, cache, ids[:, i], jnp.int32(i))
        found.append(-jax.nn.log_softmax(scores)[jnp.arange(4), ids[:, i + 1]])
    np.testing.assert_allclose(jnp.stack(found, 1), nll(params, ids), atol=1e-5)


def writer(temperature):
    model, params, _, _ = build()

    @jax.jit
    def run(keys, ids, given):
        options = {"temperature": temperature, "end_id": END, "pad_id": PAD}
        return write(model, params, keys, ids, given, **options)

    return run


def test_greedy_writing_takes_the_likeliest_token_and_keeps_what_is_given():
    _, params, nll, _ = build()
    ids, given = rows(4), jnp.array([1, 2, 3, 4])
    written = np.asarray(writer(0)(row_keys(0, 4), ids, given))
    for row in range(4):
        n = int(given[row])
        np.testing.assert_array_equal(written[row, :n], np.asarray(ids)[row, :n])
        ended = False
        for i in range(n, L):
            options = np.tile(written[row], (V, 1))
            options[:, i] = np.arange(V)
            best = np.argmin(nll(params, options)[:, i - 1])
            assert written[row, i] == (PAD if ended else best)
            ended = ended or int(written[row, i]) == END


def test_a_written_row_depends_on_its_own_key_and_follows_the_distribution():
    _, params, nll, _ = build()
    count = 4000
    run = writer(1.0)
    ids = jnp.zeros((count, L), jnp.int32)
    keys = row_keys(0, count)
    written = run(keys, ids, jnp.ones(count, jnp.int32))
    flipped = run(keys[::-1], ids, jnp.ones(count, jnp.int32))
    np.testing.assert_array_equal(written, flipped[::-1])
    options = jnp.zeros((V, L), jnp.int32).at[:, 1].set(jnp.arange(V))
    expected = jnp.exp(-nll(params, options)[:, 0])
    share = np.bincount(written[:, 1], minlength=V) / count
    # Four standard errors of a share at most.
    np.testing.assert_allclose(share, expected, atol=4 * 0.5 / count**0.5)


def test_the_loss_counts_what_is_generated_behind_start_with_its_end():
    ids = jnp.array([[0, 4, 1, 3, 3, 3], [0, 4, 1, 0, 2, 1]])
    mask = jnp.array([[True] * 6, [False] * 3 + [True] * 3])
    counted = scored_positions(ids, mask, PAD)
    np.testing.assert_array_equal(counted, [[1, 1, 0, 0, 0], [0, 0, 0, 1, 1]])
    model, params, nll, _ = build()
    batch = {"input_ids": ids, "noise_mask": mask}
    # The network stands in for itself, compiled already.
    loss = make_next_token_loss(model._replace(nll=lambda p, i, dropout_key: nll(p, i)), PAD)
    terms = loss(params, jax.random.key(0), batch, jnp.zeros(2), None)
    each = np.asarray(nll(params, ids))
    np.testing.assert_allclose(terms.nats[0], each[0, 0] + each[0, 1], rtol=1e-5)
    np.testing.assert_allclose(terms.total()[1], (each[1, 3] + each[1, 4]) / L, rtol=1e-5)


def test_what_is_not_known_yet_is_asked_for():
    with pytest.raises(UserError, match="vocab_size"):
        autoregressive_transformer(AutoregressiveConfig(max_length=4))
    with pytest.raises(UserError, match="num_heads"):
        AutoregressiveConfig(hidden_dim=10, num_heads=3)
