"""Floating-point operations of matrix products: by formula, and counted from a traced program.

Both count a multiplication and an addition as two, and matrix products alone: the rest is a few
per cent of the arithmetic and is bound by memory, not by arithmetic. XLA's ``cost_analysis``
counts the body of a loop once, and so cannot be used for a program whose layers are scanned.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.rounding import VOCAB_BLOCK

BACKWARD = 2
"""A product has two gradients, each a product of the same size."""


def network_flops(spec: DenoiserConfig, length: int) -> int:
    """Return the operations of one call of the denoiser on one row of ``length`` positions."""
    d, inner = spec.hidden_dim, 4 * spec.time_dim
    layer = 2 * length * (3 * d * d + d * d + 2 * d * spec.mlp_dim) + 4 * length * length * d
    up = 0 if spec.input_dim == d else 2 * length * (spec.input_dim * d + d * d)
    down = 0 if spec.embed_dim == d else 2 * length * (d * d + d * spec.embed_dim)
    return spec.num_layers * layer + up + down + 2 * (spec.time_dim * inner + inner * d)


def rounding_flops(spec: DenoiserConfig, length: int) -> int:
    """Return the operations of one product of a row with the embedding table, [L, E] x [E, V]."""
    padded = -(-(spec.vocab_size or 0) // VOCAB_BLOCK) * VOCAB_BLOCK
    return 2 * length * spec.embed_dim * padded


def train_flops(spec: DenoiserConfig, length: int, *, self_cond_rate: float = 0.0) -> float:
    """Return the operations of training on one row, without what is computed a second time.

    Rematerialisation in the network is left out, as is usual for model FLOPs: it is a choice, not
    work that the model asks for. The rounding loss always computes its logits again.

    Args:
        spec: the network, with its vocabulary.
        length: positions of a row.
        self_cond_rate: share of steps in which the network runs once more, forwards only.
    """
    calls = 1 + BACKWARD + self_cond_rate
    return calls * network_flops(spec, length) + (2 + BACKWARD) * rounding_flops(spec, length)


def traced_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Count the operations of a function's matrix products, on all devices together.

    Args:
        function: traceable; what it recomputes in the backward pass counts as often as it runs. Of
            a branch the dearer side counts, though it may be taken now and then only.
        *arguments: arrays or ``jax.ShapeDtypeStruct``.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _product(equation)
    if name == "conv_general_dilated":
        raise NotImplementedError("convolutions are not counted; this program has none")
    inner = [_count(jaxpr) for jaxpr in _inner(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return max(inner, default=0)
    if name == "shard_map":
        return math.prod(params["mesh"].shape.values()) * sum(inner)
    return sum(inner)


def _product(equation: Any) -> int:
    (left, right), (contracted, batch) = equation.invars, equation.params["dimension_numbers"]
    summed = math.prod(left.aval.shape[i] for i in contracted[0])
    shared = math.prod(left.aval.shape[i] for i in batch[0])
    return 2 * math.prod(left.aval.shape) * math.prod(right.aval.shape) // (summed * shared)


def _inner(params: Mapping[str, Any]) -> list[Any]:
    """Return the programs that an operation holds; of a custom derivative, the one that runs."""
    found = []
    for name, value in params.items():
        if name in ("jvp_jaxpr_fun", "jvp_jaxpr_thunk", "fwd_jaxpr_thunk", "bwd"):
            continue
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                found.append(inner)
    return found
