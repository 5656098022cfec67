"""From vectors to words: cross-entropy and nearest neighbours that never hold a [B, L, V] array.

Both walk over the vocabulary in blocks and keep running results per token. So memory does not grow
with V, and a batch that is sharded over devices stays where it is.
"""

import jax
import jax.numpy as jnp

from diffusion_jax.types import RoundingHead, check_shape

VOCAB_BLOCK = 512
"""Rows of the embedding table that are held against all tokens at once."""

# A wrong token is a discrete error; TPUs and GPUs would otherwise round products to 8 to 10 bits.
_PRECISION = jax.lax.Precision.HIGHEST


def logits(head: RoundingHead, x: jax.Array) -> jax.Array:
    """Return ``x @ weight.T + bias`` [..., V] of ``x`` [..., E]: small inputs only."""
    products = jnp.matmul(x, head.weight.T, precision=_PRECISION)
    return products + jax.lax.broadcast_to_rank(head.bias, products.ndim)


def logits_l2(head: RoundingHead, x: jax.Array) -> jax.Array:
    """Return minus the Euclidean distance to every embedding [..., V] (the originals' mode 2)."""
    flat = x.reshape(-1, x.shape[-1])
    distance = jnp.sqrt(_squared_distances(flat, _squared_norms(flat), head.weight))
    return -distance.reshape(*x.shape[:-1], head.weight.shape[0])


def token_nll(
    head: RoundingHead, x: jax.Array, input_ids: jax.Array, *, block: int = VOCAB_BLOCK
) -> jax.Array:
    """Return ``-log softmax(x @ weight.T + bias)[input_ids]`` per token, in nats.

    Differentiable in ``x``, ``weight`` and ``bias``; the backward pass computes the logits again,
    block by block, from the saved normaliser.

    Args:
        head: embedding table [V, E] and bias [V].
        x: float32 [..., E].
        input_ids: int32 [...], in [0, V).
        block: rows of the table per block.

    Returns:
        float32 [...].
    """
    check_shape("input_ids", input_ids, x.shape[:-1])
    flat = _flat_nll(block, x.reshape(-1, x.shape[-1]), head.weight, head.bias, input_ids.ravel())
    return flat.reshape(input_ids.shape)


def _flat_nll_value(
    block: int, x: jax.Array, weight: jax.Array, bias: jax.Array, ids: jax.Array
) -> jax.Array:
    return _flat_nll_forward(block, x, weight, bias, ids)[0]


def _flat_nll_forward(block: int, x: jax.Array, weight: jax.Array, bias: jax.Array, ids: jax.Array):
    log_normaliser = _log_normaliser(block, x, weight, bias)
    target_logit = jnp.sum(x * weight[ids], axis=-1) + bias[ids]
    return log_normaliser - target_logit, (x, weight, bias, ids, log_normaliser)


def _log_normaliser(block: int, x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """Return logsumexp over the vocabulary [N], by a running maximum and a running sum."""

    def add_block(carry, rows):
        maximum, total = carry
        scores = _block_logits(x, *rows)
        new_maximum = jnp.maximum(maximum, jnp.max(scores, axis=-1))
        exponentials = jnp.exp(scores - new_maximum[:, None])
        total = total * jnp.exp(maximum - new_maximum) + jnp.sum(exponentials, axis=-1)
        return (new_maximum, total), None

    start = (jnp.full(x.shape[:1], -jnp.inf, x.dtype), jnp.zeros(x.shape[:1], x.dtype))
    (maximum, total), _ = jax.lax.scan(add_block, start, _vocab_blocks(block, weight, bias))
    return maximum + jnp.log(total)


def _flat_nll_backward(block: int, saved, cotangent: jax.Array):
    x, weight, bias, ids, log_normaliser = saved

    def add_block(x_gradient, rows):
        block_weight, _ = rows
        scores = _block_logits(x, *rows)
        weighted = jnp.exp(scores - log_normaliser[:, None]) * cotangent[:, None]
        x_gradient = x_gradient + jnp.matmul(weighted, block_weight, precision=_PRECISION)
        weight_gradient = jnp.matmul(weighted.T, x, precision=_PRECISION)
        return x_gradient, (weight_gradient, jnp.sum(weighted, axis=0))

    x_gradient, (weight_gradient, bias_gradient) = jax.lax.scan(
        add_block, jnp.zeros_like(x), _vocab_blocks(block, weight, bias)
    )
    vocab_size = weight.shape[0]
    weight_gradient = weight_gradient.reshape(-1, weight.shape[1])[:vocab_size]
    bias_gradient = bias_gradient.ravel()[:vocab_size]
    x_gradient = x_gradient - cotangent[:, None] * weight[ids]
    weight_gradient = weight_gradient.at[ids].add(-cotangent[:, None] * x)
    bias_gradient = bias_gradient.at[ids].add(-cotangent)
    return x_gradient, weight_gradient, bias_gradient, None


_flat_nll = jax.custom_vjp(_flat_nll_value, nondiff_argnums=(0,))
_flat_nll.defvjp(_flat_nll_forward, _flat_nll_backward)


def nearest_embedding(
    x: jax.Array, embedding: jax.Array, *, block: int = VOCAB_BLOCK
) -> tuple[jax.Array, jax.Array]:
    """Return the nearest row of the table to every vector, in squared Euclidean distance.

    This is the clamp of Diffusion-LM (Li et al. 2022, section 4.3) without the output bias, so it
    may disagree with the arg-max of ``logits``. Ties go to the lowest index.

    Args:
        x: float32 [..., E]. No gradient flows to it.
        embedding: [V, E].
        block: rows of the table per block.

    Returns:
        ids int32 [...], and ``embedding[ids]`` [..., E].
    """
    flat = jax.lax.stop_gradient(x).reshape(-1, x.shape[-1])
    table = jax.lax.stop_gradient(embedding)
    square = _squared_norms(flat)

    def cost(rows: jax.Array, row_cost: jax.Array) -> jax.Array:
        return _squared_distances(flat, square, rows) + row_cost[None, :]

    ids = _blockwise_argmin(cost, flat.shape[0], block, table, jnp.zeros(table.shape[:1]))
    ids = ids.reshape(x.shape[:-1])
    return ids, embedding[ids]


def mean_neighbour_distance(embedding: jax.Array, *, block: int = VOCAB_BLOCK) -> jax.Array:
    """Return the squared distance from a row to its nearest other row, averaged: float32 scalar.

    Args:
        embedding: [V, E], V at least 2. No gradient flows to it.
        block: rows that are held against the table at once.
    """
    table = jax.lax.stop_gradient(embedding)
    square = _squared_norms(table)
    own = jnp.arange(table.shape[0])[:, None]

    def compare_block(carry, rows):
        nearest, first_id = carry
        block_rows, penalty = rows
        distance = _squared_distances(table, square, block_rows) + penalty[None, :]
        ids = first_id + jnp.arange(block_rows.shape[0])[None, :]
        distance = jnp.where(ids == own, jnp.inf, distance)
        nearest = jnp.minimum(nearest, jnp.min(distance, axis=-1))
        return (nearest, first_id + block_rows.shape[0]), None

    start = (jnp.full(table.shape[:1], jnp.inf, table.dtype), jnp.int32(0))
    blocks = _vocab_blocks(block, table, jnp.zeros(table.shape[:1]), padding=jnp.inf)
    (nearest, _), _ = jax.lax.scan(compare_block, start, blocks)
    return jnp.mean(nearest)


def most_likely_ids(head: RoundingHead, x: jax.Array, *, block: int = VOCAB_BLOCK) -> jax.Array:
    """Return ``argmax(logits(head, x))`` int32 [...] of ``x`` [..., E], the final rounding."""
    flat = x.reshape(-1, x.shape[-1])

    def cost(rows: jax.Array, row_cost: jax.Array) -> jax.Array:
        return row_cost[None, :] - jnp.matmul(flat, rows.T, precision=_PRECISION)

    ids = _blockwise_argmin(cost, flat.shape[0], block, head.weight, -head.bias)
    return ids.reshape(x.shape[:-1])


def posterior_mean(
    head: RoundingHead,
    x: jax.Array,
    *,
    temperature: float = 1.0,
    block: int = VOCAB_BLOCK,
) -> jax.Array:
    """Return the mean embedding under the token posterior of ``x``: softmax(logits) @ weight.

    Score interpolation (Dieleman et al. 2022, arXiv:2211.15089, section 3.2). A running maximum,
    sum and weighted sum take the vocabulary block by block; the backward pass computes the logits
    of a block again.

    Args:
        head: embedding table [V, E] and bias [V].
        x: float32 [..., E].
        temperature: the logits are divided by it; above 0. Towards 0 the mean becomes the most
            likely embedding (the score temperature of the same paper, section 6.3).
        block: rows of the table per block.

    Returns:
        float32 [..., E].
    """
    flat = x.reshape(-1, x.shape[-1]) / temperature
    bias = head.bias / temperature

    @jax.checkpoint
    def add_block(carry, rows):
        maximum, total, mean = carry
        scores = _block_logits(flat, *rows)
        new_maximum = jnp.maximum(maximum, jnp.max(scores, axis=-1))
        kept = jnp.exp(maximum - new_maximum)
        exponentials = jnp.exp(scores - new_maximum[:, None])
        total = total * kept + jnp.sum(exponentials, axis=-1)
        mean = mean * kept[:, None] + jnp.matmul(exponentials, rows[0], precision=_PRECISION)
        return (new_maximum, total, mean), None

    # The smallest finite number, not -inf: the difference of two infinities has no gradient.
    lowest = jnp.full(flat.shape[:1], jnp.finfo(flat.dtype).min, flat.dtype)
    start = (lowest, jnp.zeros_like(lowest), jnp.zeros_like(flat))
    (_, total, mean), _ = jax.lax.scan(add_block, start, _vocab_blocks(block, head.weight, bias))
    return (mean / total[:, None]).reshape(x.shape)


def _blockwise_argmin(cost, num_tokens: int, block: int, table, row_cost) -> jax.Array:
    """Return the row of least cost for each token; ``cost`` maps (rows, row_cost) to [N, block]."""

    def compare_block(carry, rows):
        best, best_id, first_id = carry
        costs = cost(*rows)
        lowest = jnp.min(costs, axis=-1)
        # Two plain reductions: a joint (value, index) reduction does not vectorise on a CPU.
        indices = jnp.arange(costs.shape[1], dtype=jnp.int32)[None, :]
        lowest_id = jnp.min(jnp.where(costs == lowest[:, None], indices, costs.shape[1]), axis=-1)
        better = lowest < best
        best_id = jnp.where(better, first_id + lowest_id, best_id)
        return (jnp.minimum(best, lowest), best_id, first_id + costs.shape[1]), None

    start = (
        jnp.full((num_tokens,), jnp.inf, table.dtype),
        jnp.zeros((num_tokens,), jnp.int32),
        jnp.int32(0),
    )
    blocks = _vocab_blocks(block, table, row_cost, padding=jnp.inf)
    (_, ids, _), _ = jax.lax.scan(compare_block, start, blocks)
    return ids


def _vocab_blocks(
    block: int, table: jax.Array, column: jax.Array, *, padding: float = -jnp.inf
) -> tuple[jax.Array, jax.Array]:
    """Cut [V, E] and [V] into blocks, the last one padded with rows that can never win."""
    vocab_size, width = table.shape
    num_blocks = -(-vocab_size // block)
    missing = num_blocks * block - vocab_size
    table = jnp.pad(table, ((0, missing), (0, 0)))
    column = jnp.pad(column, (0, missing), constant_values=padding)
    return table.reshape(num_blocks, block, width), column.reshape(num_blocks, block)


def _block_logits(x: jax.Array, rows: jax.Array, bias: jax.Array) -> jax.Array:
    return jnp.matmul(x, rows.T, precision=_PRECISION) + bias[None, :]


def _squared_norms(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x), axis=-1)


def _squared_distances(x: jax.Array, square: jax.Array, rows: jax.Array) -> jax.Array:
    products = jnp.matmul(x, rows.T, precision=_PRECISION)
    distances = _squared_norms(rows)[None, :] + square[:, None] - 2 * products
    return jnp.maximum(distances, 0)
