"""The loss of the autoregressive Transformer: next-token cross-entropy on what is generated."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.models.autoregressive import Autoregressive
from diffusion_jax.train.step import LossFn
from diffusion_jax.types import Params


class NextTokenTerms(NamedTuple):
    """Per-example results, all float32 [B].

    Attributes:
        nats: ``-log p`` of the generated part of a row, END included: nats per sentence.
        length: positions of a row, by which the loss is divided.
    """

    nats: jax.Array
    length: jax.Array

    def total(self) -> jax.Array:
        """Return what training minimises: nats per position of the row, padding included.

        A constant divisor: every token of the corpus has the same weight, in short rows and long.
        """
        return self.nats / self.length


def scored_positions(input_ids: jax.Array, noise_mask: jax.Array, pad_id: int) -> jax.Array:
    """Return which predictions count, bool [B, L - 1]: what is generated after START, END included.

    Args:
        input_ids: int32 [B, L].
        noise_mask: bool [B, L], false on the source of a pair.
        pad_id: padding, which is given.
    """
    return noise_mask[:, :-1] & noise_mask[:, 1:] & (input_ids[:, 1:] != pad_id)


def make_next_token_loss(model: Autoregressive, pad_id: int) -> LossFn:
    """Return the loss of a batch with ``input_ids`` and ``noise_mask`` [B, L]; t is not used."""

    def loss(params: Params, key: jax.Array, batch: Any, t: jax.Array, dropout_key: Any) -> Any:
        ids = batch["input_ids"]
        nll = model.nll(params, ids, dropout_key=dropout_key)
        counted = scored_positions(ids, batch["noise_mask"], pad_id)
        nats = jnp.sum(jnp.where(counted, nll, 0.0), axis=-1)
        return NextTokenTerms(nats, jnp.full(nats.shape, ids.shape[1], jnp.float32))

    return loss
