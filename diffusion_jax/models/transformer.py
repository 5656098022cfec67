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
from diffusion_jax.models.base import Model, read_vector
from diffusion_jax.models.inputs import position_rows, project, time_vector
from diffusion_jax.models.layers import (
    Dropout,
    LayerNorm,
    Place,
    axis_names,
    linear_initializers,
    scanned_blocks,
    unplaced,
)
from diffusion_jax.models.length import init_length_head, length_head_axes, length_log_probs
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.rounding import posterior_mean
from diffusion_jax.types import Params, RoundingHead, check_shape


class Denoiser(nn.Module):
    """Map latents and time labels to the estimate of ``x_start``; see DenoiserConfig."""

    spec: DenoiserConfig
    place: Place = unplaced

    @nn.compact
    def __call__(self, x_in: jax.Array, time: jax.Array) -> jax.Array:
        """Run the network on ``x_in`` [B, L, input_dim] and ``time`` [B]; float32 [B, L, E]."""
        spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
        hidden = position_rows(self, spec, spec.max_length)[None, : x_in.shape[1]]
        hidden = hidden + self._project_in(x_in).astype(jnp.float32)
        hidden = hidden + time_vector(spec, spec.time_dim, time)[:, None, :]
        hidden = LayerNorm(spec.norm_eps, name="input_norm")(hidden)
        hidden = Dropout(spec.dropout)(hidden).astype(dtype)
        hidden = self.place(hidden)
        hidden, _ = scanned_blocks(spec, place=self.place)(hidden, None)
        if spec.norm == "pre":
            hidden = LayerNorm(spec.norm_eps, name="output_norm")(hidden)
        return self._project_out(hidden).astype(jnp.float32)

    def _project_in(self, x: jax.Array) -> jax.Array:
        """Widen E to D; the originals leave the projection out where the widths agree."""
        if self.spec.input_dim == self.spec.hidden_dim:
            return x
        return project(self.spec, x, self.spec.hidden_dim, "up")

    def _project_out(self, x: jax.Array) -> jax.Array:
        if self.spec.embed_dim == self.spec.hidden_dim:
            return x
        return project(self.spec, x, self.spec.embed_dim, "down")


def transformer_denoiser(spec: DenoiserConfig, place: Place | None = None) -> Model:
    """Build the published denoiser as a record of pure functions.

    The parameters are ``{"embedding": [V, E], "head_bias": [V], "network": {...}}``, and
    ``"mean_embed": [E]`` where the spec asks for it; those of all layers are stacked along a
    leading dimension.

    Args:
        spec: the network.
        place: keeps activations [B, ...] on the devices that hold their rows; None leaves them
            to the compiler.

    Raises:
        UserError: ``spec.vocab_size`` is not set.
    """
    if spec.vocab_size is None:
        raise UserError("model.vocab_size is not set; take it from the tokenizer or the checkpoint")
    place = place or unplaced
    # Parameters are initialised with one row, which cannot be spread over devices.
    bare, network = Denoiser(spec), Denoiser(spec, place)
    vocab_size, embed_dim = spec.vocab_size, spec.embed_dim

    def init_network(key: jax.Array) -> Params:
        x = jnp.zeros((1, 1, spec.input_dim), jnp.float32)
        return bare.init({"params": key}, x, jnp.zeros((1,), jnp.float32))["params"]

    def init(key: jax.Array) -> Params:
        length_key = jax.random.fold_in(key, 5)
        embedding_key, bias_key, mean_key, network_key = jax.random.split(key, 4)
        _, bias_init = linear_initializers(spec.init, embed_dim)
        params = {
            "embedding": jax.random.normal(embedding_key, (vocab_size, embed_dim)),
            "head_bias": bias_init(bias_key, (vocab_size,)),
            "network": nn.meta.unbox(init_network(network_key)),
        }
        if spec.length_head:
            params["length_head"] = init_length_head(length_key, embed_dim, spec.max_length)
        if spec.mean_embed:
            params["mean_embed"] = jax.random.normal(mean_key, (embed_dim,)) * embed_dim**-0.5
        return params

    def scaled(rows: jax.Array) -> jax.Array:
        if not spec.normalize_embedding:
            return rows
        square = jnp.sum(rows**2, axis=-1, keepdims=True)
        return rows * jax.lax.rsqrt(jnp.maximum(square, 1e-12)) * math.sqrt(embed_dim)

    def embed(params: Params, input_ids: jax.Array) -> jax.Array:
        return place(scaled(params["embedding"][input_ids]))

    def head(params: Params) -> RoundingHead:
        return RoundingHead(weight=scaled(params["embedding"]), bias=params["head_bias"])

    def read_posterior(params: Params, output: jax.Array, *, temperature: float = 1.0) -> jax.Array:
        return posterior_mean(head(params), output, temperature=temperature)

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
        output = network.apply({"params": params["network"]}, place(x_in), time, rngs=rngs)
        output = place(cast(jax.Array, output))
        # As in attention: inner products of E terms start with variance 1.
        return output / math.sqrt(embed_dim) if spec.readout == "posterior" else output

    def logical_axes() -> Params:
        boxed = jax.eval_shape(init_network, jax.random.key(0))
        axes = {
            "embedding": ("vocab", None),
            "head_bias": ("vocab",),
            "network": axis_names(boxed),
        }
        if spec.length_head:
            axes["length_head"] = length_head_axes()
        if spec.mean_embed:
            axes["mean_embed"] = (None,)
        return axes

    def predict_length(params: Params, input_ids: jax.Array, noise_mask: jax.Array) -> jax.Array:
        return length_log_probs(params["length_head"], embed(params, input_ids), noise_mask)

    return Model(
        init,
        embed,
        head,
        denoise,
        logical_axes,
        read=read_posterior if spec.readout == "posterior" else read_vector,
        predict_length=predict_length if spec.length_head else None,
    )


def _with_self_cond(spec: DenoiserConfig, x_t: jax.Array, self_cond: jax.Array | None) -> jax.Array:
    if not spec.self_conditioning:
        if self_cond is not None:
            raise ValueError("self_cond was given to a model without self-conditioning")
        return x_t
    if self_cond is None:
        self_cond = jnp.zeros_like(x_t)
    check_shape("self_cond", self_cond, x_t.shape)
    return jnp.concatenate([x_t, self_cond], axis=-1)
