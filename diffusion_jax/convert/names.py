"""How the original PyTorch programs name and lay out the parameters of the denoiser.

Diffusion-LM and DiffuSeq (v1, v2) share one network and one set of names. PyTorch keeps a linear
weight as [out, in] where this program has [in, out], keeps query, key and value apart, and numbers
its layers where this program stacks them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.models.spec import DenoiserConfig

ORIGINAL_LAYERS = "input_transformers.layer"
EMBEDDING = "word_embedding.weight"
TIED_EMBEDDING = "lm_head.weight"
"""The tied copy of EMBEDDING; in the originals' EMA files the two differ (raw and averaged)."""
PUBLISHED_HEAD_DIM = 64


class Rule(NamedTuple):
    """Where one parameter of this program comes from.

    Attributes:
        path: keys of the parameter tree.
        names: original names; several are stacked along a new dimension before the heads.
        transpose: whether the original is a linear weight [out, in].
        shape: shape to give it (per layer, without the layer dimension); None keeps what it has.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    transpose: bool = False
    shape: tuple[int, ...] | None = None


def top_rules(spec: DenoiserConfig) -> list[Rule]:
    """Return the rules of everything outside the Transformer blocks."""
    rules = [
        Rule(("embedding",), (EMBEDDING,)),
        Rule(("head_bias",), ("lm_head.bias",)),
        Rule(("network", "positions"), ("position_embeddings.weight",)),
        *_norm(("network", "input_norm"), "LayerNorm"),
        *_linear(("network", "time_in"), "time_embed.0"),
        *_linear(("network", "time_out"), "time_embed.2"),
    ]
    if spec.input_dim != spec.hidden_dim:
        rules += _linear(("network", "up_in"), "input_up_proj.0")
        rules += _linear(("network", "up_out"), "input_up_proj.2")
    if spec.embed_dim != spec.hidden_dim:
        rules += _linear(("network", "down_in"), "output_down_proj.0")
        rules += _linear(("network", "down_out"), "output_down_proj.2")
    if spec.mean_embed:
        rules.append(Rule(("mean_embed",), ("mean_embed",)))
    return rules


def layer_rules(spec: DenoiserConfig) -> list[Rule]:
    """Return the rules of one Transformer block; original names are relative to the block."""
    width, heads = spec.hidden_dim, (spec.num_heads, spec.head_dim)
    parts = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))
    return [
        Rule(
            ("attention", "qkv", "kernel"),
            tuple(f"{part}.weight" for part in parts),
            transpose=True,
            shape=(width, *heads),
        ),
        Rule(("attention", "qkv", "bias"), tuple(f"{part}.bias" for part in parts), shape=heads),
        Rule(
            ("attention", "out", "kernel"),
            ("attention.output.dense.weight",),
            transpose=True,
            shape=(*heads, width),
        ),
        Rule(("attention", "out", "bias"), ("attention.output.dense.bias",)),
        *_norm(("attention_norm",), "attention.output.LayerNorm"),
        *_linear(("mlp", "in"), "intermediate.dense"),
        *_linear(("mlp", "out"), "output.dense"),
        *_norm(("mlp_norm",), "output.LayerNorm"),
    ]


def infer_spec(arrays: Mapping[str, np.ndarray], num_heads: int | None = None) -> DenoiserConfig:
    """Read the sizes of an original network off its parameter shapes.

    Args:
        arrays: original name -> array.
        num_heads: not visible in any shape; None takes heads of width 64, as the published networks
            have them.

    Raises:
        UserError: an array that shows a size is missing or has the wrong number of dimensions, or
            the number of heads does not fit.
    """
    vocab_size, embed_dim = _sizes(arrays, EMBEDDING)
    max_length, hidden_dim = _sizes(arrays, "position_embeddings.weight")
    _, time_dim = _sizes(arrays, "time_embed.0.weight")
    mlp_dim, _ = _sizes(arrays, f"{ORIGINAL_LAYERS}.0.intermediate.dense.weight")
    if num_heads is None:
        if hidden_dim % PUBLISHED_HEAD_DIM:
            raise UserError(
                f"the network is {hidden_dim} wide, not a multiple of {PUBLISHED_HEAD_DIM}, the "
                "width of a published attention head; give the number of heads (no array shows it)"
            )
        num_heads = hidden_dim // PUBLISHED_HEAD_DIM
    return DenoiserConfig(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        hidden_dim=hidden_dim,
        num_layers=_count_layers(arrays),
        num_heads=num_heads,
        mlp_dim=mlp_dim,
        max_length=max_length,
        time_dim=time_dim,
        mean_embed="mean_embed" in arrays,
        init="torch",
    )


def original_shapes(spec: DenoiserConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every original parameter, by name; the tied head has both its names."""
    assert spec.vocab_size is not None
    vocab, embed, hidden = spec.vocab_size, spec.embed_dim, spec.hidden_dim
    shapes = {
        EMBEDDING: (vocab, embed),
        TIED_EMBEDDING: (vocab, embed),
        "lm_head.bias": (vocab,),
        "position_embeddings.weight": (spec.max_length, hidden),
        **_norm_shapes("LayerNorm", hidden),
        **_linear_shapes("time_embed.0", spec.time_dim, 4 * spec.time_dim),
        **_linear_shapes("time_embed.2", 4 * spec.time_dim, hidden),
    }
    if spec.input_dim != hidden:
        shapes |= _linear_shapes("input_up_proj.0", spec.input_dim, hidden)
        shapes |= _linear_shapes("input_up_proj.2", hidden, hidden)
    if embed != hidden:
        shapes |= _linear_shapes("output_down_proj.0", hidden, hidden)
        shapes |= _linear_shapes("output_down_proj.2", hidden, embed)
    if spec.mean_embed:
        shapes["mean_embed"] = (embed,)
    for index in range(spec.num_layers):
        shapes |= _layer_shapes(f"{ORIGINAL_LAYERS}.{index}", hidden, spec.mlp_dim)
    return shapes


def from_original(arrays: Mapping[str, np.ndarray], spec: DenoiserConfig) -> dict[str, Any]:
    """Rearrange arrays under original names into this program's parameters (or gradients).

    Args:
        arrays: original name -> array; names that no rule mentions are left alone.
        spec: the network that they belong to.

    Returns:
        The parameter tree, NumPy arrays in the dtype of the input.

    Raises:
        UserError: an array is missing.
    """
    tree: dict[str, Any] = {}
    for rule in top_rules(spec):
        _insert(tree, rule.path, _gather(arrays, rule, ""))
    for rule in layer_rules(spec):
        layers = [
            _gather(arrays, rule, f"{ORIGINAL_LAYERS}.{index}.") for index in range(spec.num_layers)
        ]
        _insert(tree, ("network", "layers", *rule.path), np.stack(layers))
    return tree


def to_original(params: Mapping[str, Any], spec: DenoiserConfig) -> dict[str, np.ndarray]:
    """Do the inverse of ``from_original``; the tied head is written under both of its names."""
    arrays: dict[str, np.ndarray] = {}
    for rule in top_rules(spec):
        arrays.update(_scatter(_find(params, rule.path), rule, ""))
    for rule in layer_rules(spec):
        stacked = _find(params, ("network", "layers", *rule.path))
        for index in range(spec.num_layers):
            arrays.update(_scatter(stacked[index], rule, f"{ORIGINAL_LAYERS}.{index}."))
    arrays[TIED_EMBEDDING] = arrays[EMBEDDING]
    return arrays


def _sizes(arrays: Mapping[str, np.ndarray], name: str) -> tuple[int, int]:
    """Return the shape of a matrix."""
    if name not in arrays:
        raise UserError(
            f"this is not a checkpoint of Diffusion-LM or DiffuSeq: it has no array {name!r}"
        )
    shape = arrays[name].shape
    if len(shape) != 2:
        raise UserError(f"{name} has the shape {shape}; it must be a matrix")
    return shape


def _count_layers(arrays: Mapping[str, np.ndarray]) -> int:
    """Return how many blocks there are."""
    prefix = ORIGINAL_LAYERS + "."
    blocks = (name.removeprefix(prefix) for name in arrays if name.startswith(prefix))
    return len({block.split(".")[0] for block in blocks})


def _layer_shapes(block: str, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for part in ("self.query", "self.key", "self.value", "output.dense"):
        shapes |= _linear_shapes(f"{block}.attention.{part}", hidden, hidden)
    return {
        **shapes,
        **_norm_shapes(f"{block}.attention.output.LayerNorm", hidden),
        **_linear_shapes(f"{block}.intermediate.dense", hidden, inner),
        **_linear_shapes(f"{block}.output.dense", inner, hidden),
        **_norm_shapes(f"{block}.output.LayerNorm", hidden),
    }


def _linear_shapes(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(path: tuple[str, ...], name: str) -> list[Rule]:
    return [
        Rule((*path, "kernel"), (f"{name}.weight",), transpose=True),
        Rule((*path, "bias"), (f"{name}.bias",)),
    ]


def _norm(path: tuple[str, ...], name: str) -> list[Rule]:
    return [Rule((*path, "scale"), (f"{name}.weight",)), Rule((*path, "bias"), (f"{name}.bias",))]


def _stack_axis(rule: Rule) -> int:
    """Return where query, key and value are stacked: right before the heads [.., 3, H, K]."""
    return 1 if rule.transpose else 0


def _gather(arrays: Mapping[str, np.ndarray], rule: Rule, prefix: str) -> np.ndarray:
    parts = []
    for name in rule.names:
        if prefix + name not in arrays:
            raise UserError(f"the checkpoint has no array {prefix + name!r}")
        part = np.asarray(arrays[prefix + name])
        part = part.T if rule.transpose else part
        parts.append(part if rule.shape is None else part.reshape(rule.shape))
    return parts[0] if len(parts) == 1 else np.stack(parts, axis=_stack_axis(rule))


def _scatter(value: Any, rule: Rule, prefix: str) -> dict[str, np.ndarray]:
    value = np.asarray(value)
    parts = [value]
    if len(rule.names) > 1:
        parts = list(np.moveaxis(value, _stack_axis(rule), 0))
    arrays = {}
    for name, part in zip(rule.names, parts):
        if rule.shape is not None:
            part = _flatten(part, rule)
        arrays[prefix + name] = np.ascontiguousarray(part.T if rule.transpose else part)
    return arrays


def _flatten(part: np.ndarray, rule: Rule) -> np.ndarray:
    """Undo the split into heads: [D, H, K] -> [D, D], [H, K, D] -> [D, D], [H, K] -> [D]."""
    if not rule.transpose:
        return part.reshape(-1)
    if len(rule.names) > 1:
        return part.reshape(part.shape[0], -1)
    return part.reshape(-1, part.shape[-1])


def _insert(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _find(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
