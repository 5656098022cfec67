"""The published denoiser: a BERT encoder between two projections, told the time.

Li et al. 2022 and Gong et al. 2022 use the same network: h = LN(positions + up(x_t) + time), the
encoder without any attention mask, then a projection down to the width of the word vectors.
"""

import math
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.errors import UserError
from diffusion_jax.models.base import Model
from diffusion_jax.models.layers import (
    DROPOUT_MASK,
    Block,
    Dropout,
    LayerNorm,
    Linear,
    linear_initializers,
    named_axes,
)
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.types import Params, RoundingHead, check_shape

_REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(DROPOUT_MASK),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def timestep_embedding(time: jax.Array, dim: int, max_period: float = 10_000.0) -> jax.Array:
    """Return sinusoidal features [B, dim] of time labels [B]: cosines, sines, a zero if odd.

    Args:
        time: float32 [B], may be fractional.
        dim: number of features.
        max_period: the longest wavelength is ``2 pi max_period``.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = time.astype(jnp.float32)[:, None] * frequencies[None, :]
    features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(features, ((0, 0), (0, dim % 2)))


class Denoiser(nn.Module):
    """Map latents and time labels to the estimate of ``x_start``; see DenoiserConfig."""

    spec: DenoiserConfig

    @nn.compact
    def __call__(self, x_in: jax.Array, time: jax.Array) -> jax.Array:
        """Run the network on ``x_in`` [B, L, input_dim] and ``time`` [B]; float32 [B, L, E]."""
        spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
        hidden = self._position_rows(x_in.shape[1])[None]
        hidden = hidden + self._project_in(x_in).astype(jnp.float32)
        hidden = hidden + self._time_vector(time)[:, None, :]
        hidden = LayerNorm(spec.norm_eps, name="input_norm")(hidden)
        hidden = Dropout(spec.dropout)(hidden).astype(dtype)
        hidden, _ = _scanned_blocks(spec)(hidden, None)
        if spec.norm == "pre":
            hidden = LayerNorm(spec.norm_eps, name="output_norm")(hidden)
        return self._project_out(hidden).astype(jnp.float32)

    def _position_rows(self, length: int) -> jax.Array:
        spec = self.spec
        scale = 1.0 if spec.init == "torch" else 0.02
        table = self.param(
            "positions",
            named_axes(nn.initializers.normal(scale), (None, "embed")),
            (spec.max_length, spec.hidden_dim),
        )
        return table[:length]

    def _time_vector(self, time: jax.Array) -> jax.Array:
        spec, inner = self.spec, 4 * self.spec.time_dim
        x = timestep_embedding(time, spec.time_dim)
        x = Linear(
            (spec.time_dim,), (inner,), (None, "mlp"), spec.init, jnp.float32, name="time_in"
        )(x)
        return Linear(
            (inner,), (spec.hidden_dim,), ("mlp", "embed"), spec.init, jnp.float32, name="time_out"
        )(jax.nn.silu(x))

    def _project_in(self, x: jax.Array) -> jax.Array:
        """Widen E to D; the originals leave the projection out where the widths agree."""
        if self.spec.input_dim == self.spec.hidden_dim:
            return x
        return self._projection(x, self.spec.hidden_dim, "up")

    def _project_out(self, x: jax.Array) -> jax.Array:
        if self.spec.embed_dim == self.spec.hidden_dim:
            return x
        return self._projection(x, self.spec.embed_dim, "down")

    def _projection(self, x: jax.Array, out_dim: int, name: str) -> jax.Array:
        spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
        hidden = (spec.hidden_dim,)
        x = Linear((x.shape[-1],), hidden, (None, "mlp"), spec.init, dtype, name=f"{name}_in")(x)
        return Linear(hidden, (out_dim,), ("mlp", None), spec.init, dtype, name=f"{name}_out")(
            jnp.tanh(x)
        )


def _scanned_blocks(spec: DenoiserConfig) -> nn.Module:
    block = Block
    if spec.remat != "none":
        block = nn.remat(Block, policy=_REMAT_POLICIES[spec.remat], prevent_cse=False)
    scanned = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=spec.num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scanned(spec, name="layers")


def transformer_denoiser(spec: DenoiserConfig) -> Model:
    """Build the published denoiser as a record of pure functions.

    The parameters are ``{"embedding": [V, E], "head_bias": [V], "network": {...}}``, and
    ``"mean_embed": [E]`` where the spec asks for it; those of all layers are stacked along a
    leading dimension.

    Raises:
        UserError: ``spec.vocab_size`` is not set.
    """
    if spec.vocab_size is None:
        raise UserError("model.vocab_size is not set; take it from the tokenizer or the checkpoint")
    network = Denoiser(spec)
    vocab_size, embed_dim = spec.vocab_size, spec.embed_dim

    def init_network(key: jax.Array) -> Params:
        x = jnp.zeros((1, 1, spec.input_dim), jnp.float32)
        return network.init({"params": key}, x, jnp.zeros((1,), jnp.float32))["params"]

    def init(key: jax.Array) -> Params:
        embedding_key, bias_key, mean_key, network_key = jax.random.split(key, 4)
        _, bias_init = linear_initializers(spec.init, embed_dim)
        params = {
            "embedding": jax.random.normal(embedding_key, (vocab_size, embed_dim)),
            "head_bias": bias_init(bias_key, (vocab_size,)),
            "network": nn.meta.unbox(init_network(network_key)),
        }
        if spec.mean_embed:
            params["mean_embed"] = jax.random.normal(mean_key, (embed_dim,)) * embed_dim**-0.5
        return params

    def embed(params: Params, input_ids: jax.Array) -> jax.Array:
        return params["embedding"][input_ids]

    def head(params: Params) -> RoundingHead:
        return RoundingHead(weight=params["embedding"], bias=params["head_bias"])

    def denoise(
        params: Params,
        x_t: jax.Array,
        time: jax.Array,
        self_cond: jax.Array | None = None,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        check_shape("x_t", x_t, (None, None, embed_dim))
        check_shape("time", time, (x_t.shape[0],))
        if x_t.shape[1] > spec.max_length:
            raise ValueError(
                f"x_t has {x_t.shape[1]} positions; the position table has {spec.max_length}"
            )
        x_in = _with_self_cond(spec, x_t, self_cond)
        rngs = {} if dropout_key is None else {"dropout": dropout_key}
        # Nothing is mutable, so the output comes alone.
        return cast(jax.Array, network.apply({"params": params["network"]}, x_in, time, rngs=rngs))

    def logical_axes() -> Params:
        boxed = jax.eval_shape(init_network, jax.random.key(0))
        axes = {
            "embedding": ("vocab", None),
            "head_bias": ("vocab",),
            "network": jax.tree.map(
                lambda box: tuple(box.names),
                boxed,
                is_leaf=lambda node: isinstance(node, nn.Partitioned),
            ),
        }
        if spec.mean_embed:
            axes["mean_embed"] = (None,)
        return axes

    return Model(init, embed, head, denoise, logical_axes)


def _with_self_cond(spec: DenoiserConfig, x_t: jax.Array, self_cond: jax.Array | None) -> jax.Array:
    if not spec.self_conditioning:
        if self_cond is not None:
            raise ValueError("self_cond was given to a model without self-conditioning")
        return x_t
    if self_cond is None:
        self_cond = jnp.zeros_like(x_t)
    check_shape("self_cond", self_cond, x_t.shape)
    return jnp.concatenate([x_t, self_cond], axis=-1)
