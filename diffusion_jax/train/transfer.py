"""Learning rates and initial sizes that transfer across widths (muP).

Yang and Hu 2021 (arXiv:2203.03466), table 3, for Adam: a rate tuned at one width is right at any
other, where the rate of matrices from width to width and from width to output falls as 1/width,
and the initial output matrix as 1/width too instead of 1/sqrt(width). Everything is relative to a
base width, at which the model is the ordinary one.

Attention logits are to be scaled by 1/head_dim. That holds by itself where models differ in the
number of heads and not in their width, which ``base_spec`` demands.
"""

import dataclasses
from typing import Any

import jax

from diffusion_jax.errors import UserError
from diffusion_jax.models.spec import DenoiserConfig


def base_spec(spec: DenoiserConfig, base_width: int) -> DenoiserConfig:
    """Return the network at the base width: as many layers, heads as wide, as long.

    Raises:
        UserError: the width of a head does not divide it, the feed-forward layers do not scale, or
            one of the two networks has no projections because it is as wide as its embedding.
    """
    for fixed in (spec.embed_dim, spec.input_dim):
        if (spec.hidden_dim == fixed) != (base_width == fixed):
            raise UserError(
                f"model.hidden_dim is {spec.hidden_dim} and optim.base_width {base_width}; a "
                f"network of width {fixed} has no projection from or to its embedding, so no rate "
                "transfers to it or from it; choose other widths or another model.embed_dim"
            )
    if base_width % spec.head_dim:
        raise UserError(
            f"optim.base_width is {base_width}; it must be a multiple of the width of a head, "
            f"{spec.head_dim}, so that models differ in the number of heads only"
        )
    if spec.mlp_dim * base_width % spec.hidden_dim:
        raise UserError(
            f"model.mlp_dim is {spec.mlp_dim}; with optim.base_width it must stay a whole number "
            f"when scaled by {base_width}/{spec.hidden_dim}"
        )
    return dataclasses.replace(
        spec,
        hidden_dim=base_width,
        num_heads=base_width // spec.head_dim,
        mlp_dim=spec.mlp_dim * base_width // spec.hidden_dim,
    )


def rate_multipliers(abstract_params: Any, abstract_base: Any) -> Any:
    """Return the factor of the learning rate of every parameter.

    Args:
        abstract_params: of the model that is trained.
        abstract_base: of the model at the base width, the same structure.

    Returns:
        The same structure of floats: base width / width where the input of a kernel grows with the
        width, 1 elsewhere.
    """
    return jax.tree_util.tree_map_with_path(_fan_in_ratio, abstract_params, abstract_base)


def scale_output(params: Any, abstract_base: Any) -> Any:
    """Shrink initial kernels from the width to a fixed size by sqrt(base width / width)."""

    def scaled(path: Any, leaf: jax.Array, base: Any) -> jax.Array:
        factor = _fan_in_ratio(path, leaf, base)
        is_output = factor != 1.0 and leaf.shape[-1] == base.shape[-1]
        return leaf * factor**0.5 if is_output and not _is_matrix(leaf, base) else leaf

    return jax.tree_util.tree_map_with_path(scaled, params, abstract_base)


def _fan_in_ratio(path: Any, leaf: Any, base: Any) -> float:
    """Return base width / width for a kernel whose input grows with the width, else 1."""
    if getattr(path[-1], "key", "") != "kernel":
        return 1.0
    grown = [b / n for n, b in zip(leaf.shape, base.shape) if n != b]
    if not grown:
        return 1.0
    only_output = len(grown) == 1 and leaf.shape[-1] != base.shape[-1]
    return 1.0 if only_output else min(grown)


def _is_matrix(leaf: Any, base: Any) -> bool:
    return sum(n != b for n, b in zip(leaf.shape, base.shape)) > 1
