"""Cross-entropy and clamp over a large vocabulary: in blocks, and as one would write them down."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.rounding import nearest_embedding, token_nll
from diffusion_jax.types import RoundingHead


class Shape(NamedTuple):
    """B, L, V and E of the problem."""

    batch: int
    length: int
    vocab: int
    embed: int


PUBLISHED = Shape(64, 128, 30522, 128)
SMOKE = Shape(8, 16, 5000, 16)


def plain_nll(head: RoundingHead, x: jax.Array, ids: jax.Array) -> jax.Array:
    """Return the cross-entropy by way of all logits [B, L, V]."""
    log_probs = jax.nn.log_softmax(x @ head.weight.T + head.bias[None, None, :])
    return -jnp.take_along_axis(log_probs, ids[..., None], axis=-1)[..., 0]


def plain_nearest(x: jax.Array, embedding: jax.Array) -> jax.Array:
    """Return the nearest rows by way of all distances [B, L, V]."""
    distances = (
        jnp.sum(x**2, axis=-1, keepdims=True)
        + jnp.sum(embedding**2, axis=-1)[None, None, :]
        - 2 * x @ embedding.T
    )
    return embedding[jnp.argmin(jnp.maximum(distances, 0), axis=-1)]


def compile_all(shape: Shape) -> dict[str, jax.stages.Compiled]:
    """Compile loss gradient and clamp, each both ways, without making any array."""
    x = jax.ShapeDtypeStruct((shape.batch, shape.length, shape.embed), jnp.float32)
    ids = jax.ShapeDtypeStruct((shape.batch, shape.length), jnp.int32)
    head = RoundingHead(
        jax.ShapeDtypeStruct((shape.vocab, shape.embed), jnp.float32),
        jax.ShapeDtypeStruct((shape.vocab,), jnp.float32),
    )

    def gradient(nll: Callable) -> jax.stages.Compiled:
        def loss(head, x, ids):
            return jnp.mean(nll(head, x, ids))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(head, x, ids).compile()

    return {
        "nll and gradient, blocked": gradient(token_nll),
        "nll and gradient, plain": gradient(plain_nll),
        "clamp, blocked": jax.jit(lambda x, w: nearest_embedding(x, w)[1])
        .lower(x, head.weight)
        .compile(),
        "clamp, plain": jax.jit(plain_nearest).lower(x, head.weight).compile(),
    }


def runnable(compiled: dict[str, jax.stages.Compiled], shape: Shape) -> dict[str, Callable]:
    """Bind each compiled program to random arrays."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (shape.batch, shape.length, shape.embed))
    weight = jax.random.normal(keys[1], (shape.vocab, shape.embed))
    ids = jax.random.randint(keys[2], (shape.batch, shape.length), 0, shape.vocab)
    head = RoundingHead(weight, jnp.zeros(shape.vocab))

    arguments = {"nll and gradient": (head, x, ids), "clamp": (x, weight)}
    return {
        name: functools.partial(program, *arguments[name.split(",")[0]])
        for name, program in compiled.items()
    }
