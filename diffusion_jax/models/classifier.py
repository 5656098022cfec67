"""Noise-aware classifiers: what guidance climbs (Li et al. 2022, section 5).

One encoder serves three tasks. Its input is a noisy latent and the time label, as the denoiser's;
what differs is where labels are read off: a summary position ("attribute"), every position
("pos"), every pair of positions ("tree").
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.errors import UserError
from diffusion_jax.models.inputs import position_rows, project, time_vector
from diffusion_jax.models.layers import (
    Dropout,
    LayerNorm,
    Linear,
    axis_names,
    named_axes,
    scanned_blocks,
)
from diffusion_jax.models.shape import ClassifierConfig
from diffusion_jax.types import Params, check_shape


class LogitsFn(Protocol):
    """Run the classifier: parameters first, dropout only where a key is given."""

    def __call__(
        self,
        params: Params,
        x: jax.Array,
        time: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Map latents ``x`` [B, L, E] and time labels [B] to float32 logits.

        The shape is [B, C] for "attribute" (C: the values of all fields, one after the other),
        [B, L, C] for "pos" and [B, L, L, C] for "tree", where cell [i, j] is the span from position
        i to position j, both included.
        """
        ...


class Classifier(NamedTuple):
    """A classifier as pure functions of its parameters.

    Attributes:
        init: typed key -> parameters.
        logits: the network, see LogitsFn.
        logical_axes: () -> pytree like the parameters, see ``models.base.Model``.
    """

    init: Callable[[jax.Array], Params]
    logits: LogitsFn
    logical_axes: Callable[[], Any]


class Encoder(nn.Module):
    """Map latents and time labels to logits; see ClassifierConfig."""

    spec: ClassifierConfig

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """Run the network on ``x`` [B, L, E] and ``time`` [B]."""
        spec = self.spec
        assert spec.max_length is not None
        hidden = position_rows(self, spec, spec.max_length)[None, : x.shape[1]]
        hidden = hidden + project(spec, x, spec.hidden_dim, "up").astype(jnp.float32)
        if spec.task == "attribute":
            hidden = jnp.concatenate([self._summary_row(x.shape[0]), hidden], axis=1)
        hidden = hidden + time_vector(spec, spec.time_dim, time)[:, None, :]
        hidden = LayerNorm(spec.norm_eps, name="input_norm")(hidden)
        hidden = Dropout(spec.dropout)(hidden).astype(jnp.dtype(spec.dtype))
        hidden, _ = scanned_blocks(spec)(hidden, None)
        if spec.norm == "pre":
            hidden = LayerNorm(spec.norm_eps, name="output_norm")(hidden)
        if spec.task == "attribute":
            hidden = hidden[:, 0]
        if spec.task == "tree":
            hidden = self._pairs(hidden)
        return self._linear(hidden, spec.num_classes, (None,), "classes").astype(jnp.float32)

    def _summary_row(self, batch_size: int) -> jax.Array:
        """Return a learned vector [B, 1, D] that stands before the first position."""
        row = self.param(
            "summary",
            named_axes(nn.initializers.normal(0.02), ("embed",)),
            (self.spec.hidden_dim,),
        )
        return jnp.broadcast_to(row, (batch_size, 1, self.spec.hidden_dim))

    def _pairs(self, hidden: jax.Array) -> jax.Array:
        """Return features [B, L, L, D] of all spans from [B, L, D].

        ``tanh(W [h_end ; h_start] + b)`` as published, written as the sum of two products, so that
        no [B, L, L, 2 D] array is held.
        """
        start = self._linear(hidden, self.spec.hidden_dim, ("mlp",), "start")
        end = self._linear(hidden, self.spec.hidden_dim, ("mlp",), "end")
        return jnp.tanh(start[:, :, None, :] + end[:, None, :, :])

    def _linear(self, x: jax.Array, width: int | None, axes: tuple, name: str) -> jax.Array:
        spec = self.spec
        assert width is not None
        return Linear(
            (x.shape[-1],), (width,), ("embed", *axes), spec.init, jnp.dtype(spec.dtype), name=name
        )(x)


def noise_aware_classifier(spec: ClassifierConfig) -> Classifier:
    """Build a classifier as a record of pure functions.

    Args:
        spec: with ``num_classes``, ``embed_dim`` and ``max_length`` filled in.

    Raises:
        UserError: one of these is not set.
    """
    unset = [n for n in ("num_classes", "embed_dim", "max_length") if getattr(spec, n) is None]
    if unset:
        raise UserError(
            f"model.{unset[0]} is not set; it comes from the labels and the checkpoint that the "
            "classifier is trained on"
        )
    network = Encoder(spec)
    embed_dim, max_length = spec.embed_dim, spec.max_length
    assert embed_dim is not None
    assert max_length is not None

    def init_network(key: jax.Array) -> Params:
        x = jnp.zeros((1, 1, embed_dim), jnp.float32)
        return network.init({"params": key}, x, jnp.zeros((1,), jnp.float32))["params"]

    def init(key: jax.Array) -> Params:
        return nn.meta.unbox(init_network(key))

    def logits(
        params: Params, x: jax.Array, time: jax.Array, *, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        check_shape("x", x, (None, None, embed_dim))
        check_shape("time", time, (x.shape[0],))
        if x.shape[1] > max_length:
            raise ValueError(f"x has {x.shape[1]} positions; the position table has {max_length}")
        rngs = {} if dropout_key is None else {"dropout": dropout_key}
        return cast(jax.Array, network.apply({"params": params}, x, time, rngs=rngs))

    def logical_axes() -> Params:
        return axis_names(jax.eval_shape(init_network, jax.random.key(0)))

    return Classifier(init, logits, logical_axes)
