"""The autoregressive Transformer: judge of fluency, and the baseline that writes left to right.

Causal, pre-LN (Radford et al. 2019), built of the denoiser's own blocks. The output layer is the
embedding table.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax import keys
from diffusion_jax.errors import UserError
from diffusion_jax.models.inputs import position_rows
from diffusion_jax.models.layers import (
    Dropout,
    LayerNorm,
    axis_names,
    named_axes,
    scanned_blocks,
)
from diffusion_jax.models.shape import AutoregressiveConfig
from diffusion_jax.rounding import logits, token_nll
from diffusion_jax.types import Params, RoundingHead, check_shape


class NextTokenNll(Protocol):
    """Score rows of tokens."""

    def __call__(
        self, params: Params, input_ids: jax.Array, *, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Map ids int32 [B, L] to ``-log p(id at i + 1 | ids up to i)`` in nats, [B, L - 1].

        No [B, L, V] array is held.
        """
        ...


class Autoregressive(NamedTuple):
    """A causal language model as pure functions of its parameters.

    Attributes:
        init: typed key -> parameters.
        nll: see NextTokenNll.
        empty_cache: B -> keys and values of no position yet.
        next_logits: (params, cache, ids int32 [B], position int32 scalar) -> (cache, logits [B, V])
            of the next token.
        logical_axes: () -> pytree like the parameters, see ``models.base.Model``.
    """

    init: Callable[[jax.Array], Params]
    nll: NextTokenNll
    empty_cache: Callable[[int], Any]
    next_logits: Callable[[Params, Any, jax.Array, jax.Array], tuple[Any, jax.Array]]
    logical_axes: Callable[[], Any]


class Decoder(nn.Module):
    """Map tokens to the vectors from which the next token is predicted.

    Attributes:
        spec: sizes.
        cached: whether one position is fed at a time, see ``layers.SelfAttention``.
    """

    spec: AutoregressiveConfig
    cached: bool = False

    @nn.compact
    def __call__(
        self, input_ids: jax.Array, position: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Map ids [B, L] to vectors [B, L, D] and the embedding table [V, D]."""
        spec = self.spec
        assert spec.vocab_size is not None
        assert spec.max_length is not None
        # Small enough for logits of variance 1 over normalised vectors.
        table = self.param(
            "embedding",
            named_axes(nn.initializers.normal(spec.hidden_dim**-0.5), ("vocab", "embed")),
            (spec.vocab_size, spec.hidden_dim),
        )
        positions = position_rows(self, spec, spec.max_length)
        if position is None:
            positions = positions[: input_ids.shape[1]]
        else:
            positions = jax.lax.dynamic_slice_in_dim(positions, position, 1)
        hidden = table[input_ids] + positions[None]
        hidden = Dropout(spec.dropout)(hidden).astype(jnp.dtype(spec.dtype))
        cache_length = spec.max_length if self.cached else 0
        hidden, _ = scanned_blocks(spec, causal=True, cache_length=cache_length)(hidden, position)
        if spec.norm == "pre":
            hidden = LayerNorm(spec.norm_eps, name="output_norm")(hidden)
        return hidden.astype(jnp.float32), table


def autoregressive_transformer(spec: AutoregressiveConfig) -> Autoregressive:
    """Build a causal language model as a record of pure functions.

    Raises:
        UserError: ``spec.vocab_size`` or ``spec.max_length`` is not set.
    """
    for name in ("vocab_size", "max_length"):
        if getattr(spec, name) is None:
            raise UserError(f"model.{name} is not set; it comes from the tokenizer and the data")
    network, stepwise = Decoder(spec), Decoder(spec, cached=True)
    one = jnp.zeros((1, 1), jnp.int32)

    def init_network(key: jax.Array) -> Params:
        return network.init({"params": key}, one)["params"]

    def init(key: jax.Array) -> Params:
        return nn.meta.unbox(init_network(key))

    def nll(
        params: Params, input_ids: jax.Array, *, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        check_shape("input_ids", input_ids, (None, None))
        if input_ids.shape[1] - 1 > (spec.max_length or 0):
            raise ValueError(
                f"rows of {input_ids.shape[1]}; the position table has {spec.max_length}"
            )
        rngs = {} if dropout_key is None else {"dropout": dropout_key}
        hidden, table = cast(
            tuple[jax.Array, jax.Array],
            network.apply({"params": params}, input_ids[:, :-1], rngs=rngs),
        )
        return token_nll(_head(table), hidden, input_ids[:, 1:])

    def empty_cache(batch_size: int) -> Any:
        shapes = jax.eval_shape(
            lambda: stepwise.init(
                {"params": jax.random.key(0)}, jnp.zeros((batch_size, 1), jnp.int32), jnp.int32(0)
            )
        )["cache"]
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def next_logits(
        params: Params, cache: Any, ids: jax.Array, position: jax.Array
    ) -> tuple[Any, jax.Array]:
        variables = {"params": params, "cache": cache}
        (hidden, table), changed = stepwise.apply(
            variables, ids[:, None], position, mutable=["cache"]
        )
        return changed["cache"], logits(_head(table), hidden[:, 0])

    def logical_axes() -> Params:
        return axis_names(jax.eval_shape(init_network, jax.random.key(0)))

    return Autoregressive(init, nll, empty_cache, next_logits, logical_axes)


def _head(table: jax.Array) -> RoundingHead:
    return RoundingHead(table, jnp.zeros(table.shape[:1]))


def write(
    model: Autoregressive,
    params: Params,
    row_keys: jax.Array,
    input_ids: jax.Array,
    given: jax.Array,
    *,
    temperature: float,
    end_id: int,
    pad_id: int,
) -> jax.Array:
    """Write rows from left to right: one scan over positions, with a cache.

    Args:
        model: the network.
        params: its parameters.
        row_keys: typed keys [B]; a row depends on its own alone.
        input_ids: int32 [B, L], of which the first positions of each row are given.
        given: int32 [B], how many, at least 1.
        temperature: divides the logits; 0 takes the most likely token.
        end_id: after this token, where it was written, a row is filled up.
        pad_id: with this one.

    Returns:
        int32 [B, L].
    """

    def step(carry: Any, position: jax.Array) -> tuple[Any, jax.Array]:
        cache, token, done = carry
        cache, scores = model.next_logits(params, cache, token, position)
        if temperature == 0:
            drawn = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        else:
            step_keys = jax.vmap(lambda key: jax.random.fold_in(key, position))(row_keys)
            drawn = jax.vmap(jax.random.categorical)(step_keys, scores / temperature)
        following = position + 1
        is_given = following < given
        token = jnp.where(is_given, input_ids[:, following], jnp.where(done, pad_id, drawn))
        token = token.astype(jnp.int32)
        done = done | (~is_given & (token == end_id))
        return (cache, token, done), token

    rows, length = input_ids.shape
    start = (model.empty_cache(rows), input_ids[:, 0], jnp.zeros((rows,), bool))
    _, written = jax.lax.scan(step, start, jnp.arange(length - 1))
    return jnp.concatenate([input_ids[:, :1], written.T], axis=1)


def row_keys(seed: int, count: int) -> jax.Array:
    """Return one typed key per row [count]."""
    root = keys.stream(jax.random.key(seed), "write")
    return keys.per_example(root, jnp.arange(count, dtype=jnp.uint32))
