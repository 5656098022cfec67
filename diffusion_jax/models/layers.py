"""Building blocks of the networks, up to a scanned stack of Transformer blocks.

Every parameter carries logical axis names (embed, mlp, heads, kv, ...), which say what a dimension
is and not where it lives; ``scale.sharding`` maps names to a mesh.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from diffusion_jax.models.shape import TransformerShape
from diffusion_jax.models.spec import DenoiserConfig

BlockSpec = DenoiserConfig | TransformerShape
Initializer = Callable[..., jax.Array]

DROPOUT_MASK = "dropout_mask"
"""What a rematerialisation policy calls the bits that are dear to draw and small to keep."""

REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(DROPOUT_MASK),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


Place = Callable[[jax.Array], jax.Array]
"""Keeps activations [B, L, D] on the devices that hold their rows, see ``scale.sharding``."""


def unplaced(x: jax.Array) -> jax.Array:
    """Leave the placement to the compiler."""
    return x


def symmetric_uniform(bound: float) -> Initializer:
    """Initialise from U(-bound, bound)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def linear_initializers(style: str, fan_in: int) -> tuple[Initializer, Initializer]:
    """Return the initialisers of a kernel and its bias.

    "torch" is U(+-1/sqrt(fan_in)) for both, the default of ``torch.nn.Linear``; "lecun" is
    N(0, 1/fan_in) and zero.
    """
    if style == "torch":
        uniform = symmetric_uniform(1 / math.sqrt(fan_in))
        return uniform, uniform
    return nn.initializers.normal(1 / math.sqrt(fan_in)), nn.initializers.zeros_init()


def named_axes(init: Initializer, axes: tuple[str | None, ...]) -> Initializer:
    """Initialise a parameter whose dimensions have logical names.

    What comes out is a box around the array, which ``Module.param`` takes off again: hence the
    type.
    """
    return cast(Initializer, nn.with_partitioning(init, axes))


class Linear(nn.Module):
    """Contract the last dimensions of the input with a kernel, and add a bias.

    Attributes:
        in_shape: sizes of the input dimensions that are summed over (the last ones).
        out_shape: sizes of the dimensions that replace them.
        axes: logical names of the kernel's dimensions, ``in_shape`` then ``out_shape``.
        init_style: see DenoiserConfig.init.
        dtype: what the product is computed in; the parameters are float32.
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init_style: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``x`` [..., *in_shape] mapped to [..., *out_shape]."""
        summed = len(self.in_shape)
        kernel_init, bias_init = linear_initializers(self.init_style, math.prod(self.in_shape))
        kernel = self.param(
            "kernel",
            named_axes(kernel_init, self.axes),
            self.in_shape + self.out_shape,
        )
        bias = self.param("bias", named_axes(bias_init, self.axes[summed:]), self.out_shape)
        # All positions in one row dimension: with several, XLA copies the operands of the
        # gradient's products on a CPU.
        rows = x.astype(self.dtype).reshape(-1, *self.in_shape)
        y = jnp.tensordot(rows, kernel.astype(self.dtype), axes=summed)
        y = y + bias.astype(self.dtype)[None]
        return y.reshape(*x.shape[: x.ndim - summed], *self.out_shape)


class LayerNorm(nn.Module):
    """Normalise the last dimension in float32; returns the input's dtype."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``x`` [..., D] with mean 0 and variance 1 along D, scaled and shifted."""
        width = (x.shape[-1],)
        scale = self.param("scale", named_axes(nn.initializers.ones_init(), ("embed",)), width)
        bias = self.param("bias", named_axes(nn.initializers.zeros_init(), ("embed",)), width)
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps)
        y = y * jax.lax.broadcast_to_rank(scale, y.ndim)
        return (y + jax.lax.broadcast_to_rank(bias, y.ndim)).astype(x.dtype)


def dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Zero entries of ``x`` with probability ``rate`` and rescale the others.

    One byte decides an entry, so that four decisions cost one 32-bit draw: counter-based generators
    are a large part of a training step on a CPU. The rate is therefore rounded to a multiple of
    1/256 (0.1 becomes 0.1016); the rescaling uses the rounded rate, so the expectation is exact.
    """
    dropped_bytes = round(rate * 256)
    if dropped_bytes == 0:
        return x
    words = jax.random.bits(key, (*x.shape[:-1], -(-x.shape[-1] // 4)), jnp.uint32)
    random_bytes = jax.lax.bitcast_convert_type(words, jnp.uint8)
    random_bytes = random_bytes.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
    keep = checkpoint_name(random_bytes >= jnp.uint8(dropped_bytes), DROPOUT_MASK)
    return jnp.where(keep, x * (256 / (256 - dropped_bytes)), jnp.zeros_like(x))


class Dropout(nn.Module):
    """Apply ``dropout`` where a dropout key was given to the network, else do nothing."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``x``, thinned out in training."""
        if self.rate == 0 or not self.has_rng("dropout"):
            return x
        return dropout(self.make_rng("dropout"), x, self.rate)


def gelu(x: jax.Array) -> jax.Array:
    """Return ``x * Phi(x)``, exactly (Hendrycks and Gimpel 2016).

    Written with erf: ``jax.nn.gelu`` takes erfc, whose derivative is several times slower on a CPU.
    """
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


class SelfAttention(nn.Module):
    """Attend from every position to every position, or to those before it; padding is no exception.

    Attributes:
        spec: sizes.
        causal: a position sees itself and those before it.
        cache_length: where it is not 0, the input is one position of a causal sequence at a time,
            and the keys and values of those before it are kept in the collection "cache".
    """

    spec: BlockSpec
    causal: bool = False
    cache_length: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, position: jax.Array | None = None) -> jax.Array:
        """Map [B, L, D] to [B, L, D]; with a cache L is 1, at ``position`` (int32 scalar)."""
        spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
        heads = (spec.num_heads, spec.head_dim)
        qkv = Linear(
            (spec.hidden_dim,),
            (3, *heads),
            ("embed", None, "heads", "kv"),
            spec.init,
            dtype,
            name="qkv",
        )(x)
        # Split, not indexing: its gradient is one concatenation instead of a sum of padded arrays.
        query, key, value = (
            part.squeeze(-3) for part in jax.lax.split(qkv, (1, 1, 1), axis=qkv.ndim - 3)
        )
        mask = None
        if self.cache_length:
            key, value, mask = self._remember(key, value, position)
        elif self.causal:
            mask = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
        if spec.attention_impl == "cudnn":
            mixed = jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
        else:
            mixed = self._attend(query, key, value, mask)
        return Linear(
            heads, (spec.hidden_dim,), ("heads", "kv", "embed"), spec.init, dtype, name="out"
        )(mixed)

    def _attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None
    ) -> jax.Array:
        query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
        scores = jnp.matmul(query, key.swapaxes(2, 3), preferred_element_type=jnp.float32)
        scores = scores * self.spec.head_dim**-0.5
        if self.spec.relative_positions != "none":
            scores = scores + self._distance_bias(scores.shape[-1])[None]
        if mask is not None:
            scores = jnp.where(mask[None, None], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1)
        weights = Dropout(self.spec.attention_dropout)(weights).astype(value.dtype)
        return jnp.matmul(weights, value).swapaxes(1, 2)

    def _remember(
        self, key: jax.Array, value: jax.Array, position: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Store one position; return all keys and values [B, cache_length, H, Dh] and the mask."""
        assert position is not None
        shape = (key.shape[0], self.cache_length, *key.shape[2:])
        kept = []
        for name, new in (("key", key), ("value", value)):
            store = self.variable("cache", name, jnp.zeros, shape, new.dtype)
            store.value = jax.lax.dynamic_update_slice_in_dim(store.value, new, position, axis=1)
            kept.append(store.value)
        return kept[0], kept[1], (jnp.arange(self.cache_length) <= position)[None, :]

    def _distance_bias(self, length: int) -> jax.Array:
        """Return [H, L, L], what each head adds to a score for the distance key - query."""
        spec = self.spec
        assert isinstance(spec, DenoiserConfig)  # relative_positions are its alone
        by_distance = self.param(
            "distance_bias",
            named_axes(neighbour_bias(spec.relative_positions), ("heads", None)),
            (spec.num_heads, 2 * spec.max_length - 1),
        )
        middle = spec.max_length - 1
        return toeplitz(by_distance[:, middle - length + 1 : middle + length])


NEIGHBOURS = (-1, 1, -3, 3, -2, 2, -5, 5)
"""The distances that the local heads of a layer begin with, repeated where there are more."""


def neighbour_bias(style: str) -> Initializer:
    """Initialise attention biases [H, 2M - 1] by distance, so that heads see near neighbours.

    Sentences are local: a network that must first find its neighbours through the position table
    spends most of a short training on that (``benchmarks/results/quickstart.md`` has the figures).
    The bias falls with the logarithm of the distance, so that far positions are still reached.

    Args:
        style: "local": every head; "mixed": every second one, the others begin at 0.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        del key
        num_heads, num_distances = shape
        every = 2 if style == "mixed" else 1
        centres = jnp.resize(jnp.array(NEIGHBOURS), (-(-num_heads // every), 1))
        distances = jnp.arange(num_distances)[None] - num_distances // 2
        near = -2.0 * jnp.log1p(jnp.abs(distances - centres))
        return jnp.zeros(shape, dtype).at[::every].set(near.astype(dtype))

    return init


def toeplitz(diagonals: jax.Array) -> jax.Array:
    """Spread ``diagonals`` [H, 2L - 1] over matrices [H, L, L]: entry (i, j) is L - 1 + j - i.

    By repeating and reshaping; the gradient of indexing is a scatter, which is slow on every
    device.
    """
    num_heads, width = diagonals.shape
    length = (width + 1) // 2
    padded = jnp.pad(diagonals, ((0, 0), (0, 1)))
    rows = jnp.tile(padded, (1, length))[:, : length * width].reshape(num_heads, length, width)
    return rows[:, :, length - 1 :]


class Mlp(nn.Module):
    """Two linear maps with the exact (erf) GELU between them."""

    spec: BlockSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, L, D] to [B, L, D]."""
        spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
        inner, outer = (spec.mlp_dim,), (spec.hidden_dim,)
        x = Linear(outer, inner, ("embed", "mlp"), spec.init, dtype, name="in")(x)
        x = gelu(x)
        return Linear(inner, outer, ("mlp", "embed"), spec.init, dtype, name="out")(x)


class Block(nn.Module):
    """One Transformer layer, in the ``(carry, input) -> (carry, output)`` form that scan wants.

    Attributes:
        spec: sizes.
        causal: see SelfAttention.
        cache_length: see SelfAttention.
        place: see ``Place``.
    """

    spec: BlockSpec
    causal: bool = False
    cache_length: int = 0
    place: Place = unplaced

    @nn.compact
    def __call__(self, x: jax.Array, position: jax.Array | None) -> tuple[jax.Array, None]:
        """Map [B, L, D] to [B, L, D]."""
        spec, place = self.spec, self.place
        attention = SelfAttention(spec, self.causal, self.cache_length, name="attention")
        branches = (
            ("attention", lambda x: attention(x, position)),
            ("mlp", Mlp(spec, name="mlp")),
        )
        for name, inner in branches:
            norm = LayerNorm(spec.norm_eps, name=f"{name}_norm")
            drop = Dropout(spec.dropout)
            if spec.norm == "pre":
                x = x + drop(place(inner(place(norm(x)))))
            else:
                x = place(norm(x + drop(place(inner(x)))))
        return x, None


def scanned_blocks(
    spec: BlockSpec, *, causal: bool = False, cache_length: int = 0, place: Place = unplaced
) -> nn.Module:
    """Return ``num_layers`` blocks under the name "layers", their parameters stacked.

    The result is called with the input [B, L, D] and, with a cache, its position (else None).

    Args:
        spec: sizes, and what the backward pass computes again.
        causal: see SelfAttention.
        cache_length: see SelfAttention.
        place: see ``Place``.
    """
    block = Block
    if spec.remat != "none":
        block = nn.remat(Block, policy=REMAT_POLICIES[spec.remat], prevent_cse=False)
    scanned = nn.scan(
        block,
        variable_axes={"params": 0, "cache": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=cast(Any, nn.broadcast),
        length=spec.num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scanned(spec, causal, cache_length, place, name="layers")


def axis_names(boxed: Any) -> Any:
    """Return the logical axis names of parameters that are still in their boxes."""
    return jax.tree.map(
        lambda box: tuple(box.names), boxed, is_leaf=lambda node: isinstance(node, nn.Partitioned)
    )
