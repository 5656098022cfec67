"""How long the target will be, told by its source: a small head beside the denoiser.

As in non-autoregressive translation (Gu et al. 2018, arXiv:1711.02281; Ghazvininejad et al. 2019,
arXiv:1904.09324) and DINOISER (arXiv:2302.10025) the length is chosen before the words are. Here
the head sees the mean of the source's word vectors and the number of its tokens. No gradient goes
to the word vectors.
"""

import jax
import jax.numpy as jnp

from diffusion_jax.types import Params, check_shape

HIDDEN = 128


def init_length_head(key: jax.Array, embed_dim: int, max_length: int) -> Params:
    """Draw the head's parameters; lengths are 0 to ``max_length``."""
    in_key, count_key, out_key = jax.random.split(key, 3)
    lengths = max_length + 1
    return {
        "in": jax.random.normal(in_key, (embed_dim, HIDDEN)) * embed_dim**-0.5,
        "count": jax.random.normal(count_key, (lengths, HIDDEN)) * 0.02,
        "in_bias": jnp.zeros((HIDDEN,)),
        "out": jax.random.normal(out_key, (HIDDEN, lengths)) * HIDDEN**-0.5,
        "out_bias": jnp.zeros((lengths,)),
    }


def length_head_axes() -> Params:
    """Return the logical axes of the head's parameters: small enough to lie everywhere."""
    return {
        "in": (None, None),
        "count": (None, None),
        "in_bias": (None,),
        "out": (None, None),
        "out_bias": (None,),
    }


def length_log_probs(head: Params, vectors: jax.Array, noise_mask: jax.Array) -> jax.Array:
    """Return log-probabilities of the number of target tokens [B, lengths].

    Args:
        head: of ``init_length_head``.
        vectors: float32 [B, L, E], the word vectors of whole rows; those of the source are used.
        noise_mask: bool [B, L], False at the source.
    """
    check_shape("noise_mask", noise_mask, vectors.shape[:2])
    given = (~noise_mask).astype(vectors.dtype)
    count = jnp.sum(given, axis=-1)
    total = jnp.sum(jax.lax.stop_gradient(vectors) * given[..., None], axis=1)
    mean = total / jnp.maximum(count, 1.0)[:, None]
    hidden = mean @ head["in"] + head["count"][count.astype(jnp.int32)] + head["in_bias"][None]
    return jax.nn.log_softmax(jnp.tanh(hidden) @ head["out"] + head["out_bias"][None])
