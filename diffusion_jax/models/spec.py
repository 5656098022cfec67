"""The shape of a denoiser, as data: read by the configuration and by the network, needs no jax."""

import dataclasses
from typing import Literal

from diffusion_jax.errors import UserError
from diffusion_jax.fields import check_fields


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
    """Describe the Transformer that predicts ``x_start`` (defaults: the published BERT-base).

    Attributes:
        vocab_size: V, number of token ids. None until the tokenizer is known.
        embed_dim: E, width of the word vectors, which is the space that diffusion runs in.
        hidden_dim: D, width of the Transformer.
        num_layers: number of Transformer blocks.
        num_heads: attention heads; must divide ``hidden_dim``.
        mlp_dim: width of the feed-forward layers.
        max_length: rows of the position table, the longest sequence the network accepts.
        time_dim: width of the sinusoidal time features.
        dropout: probability of dropping a hidden unit, in [0, 1).
        attention_dropout: probability of dropping an attention weight, in [0, 1).
        norm: "post" (BERT, published) or "pre" LayerNorm.
        self_conditioning: feed the previous estimate of ``x_start`` beside ``x_t`` (Chen et al.
            2022).
        mean_embed: learn the soft absorbing state of DiffuSeq-v2, a vector [E].
        readout: what the network's output says about ``x_start``: it is the "vector" itself (as
            published), or its inner products with the embeddings are logits of a token "posterior",
            whose mean embedding is the estimate (CDCD, arXiv:2211.15089; Plaid, arXiv:2305.18619).
        relative_positions: add a learned bias for each head and each distance between two
            positions to the attention scores (T5, arXiv:1910.10683). "none" (as published);
            "local": every head begins by looking at one near neighbour; "mixed": every second head
            begins so and the others look everywhere, as targets must at their sources.
        normalize_embedding: scale every word vector to length sqrt(E) wherever it is used (CDCD).
        length_head: predict the length of the target from its source and give it to the network as
            padding that is known, instead of generating padding; for pairs. Needs ``pad_id``.
        pad_id: id of padding, where training asks for it; None until the tokenizer is known.
        init: "lecun" (LeCun normal kernels, zero biases, small positions) or "torch", the defaults
            of PyTorch that both published programs train from.
        dtype: what matrix products are computed in. Parameters, softmax, LayerNorm and the output
            stay float32.
        remat: what the backward pass computes again to save memory: "none", "dots" (everything but
            the matrix products) or "full" (a whole block at a time).
        attention_impl: "xla" everywhere, or "cudnn" (NVIDIA; needs bfloat16, no attention dropout).
        norm_eps: added to the variance in LayerNorm.
    """

    vocab_size: int | None = None
    embed_dim: int = 128
    hidden_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    max_length: int = 512
    time_dim: int = 128
    dropout: float = 0.1
    attention_dropout: float = 0.1
    norm: Literal["post", "pre"] = "post"
    self_conditioning: bool = False
    mean_embed: bool = False
    readout: Literal["vector", "posterior"] = "vector"
    relative_positions: Literal["none", "local", "mixed"] = "none"
    normalize_embedding: bool = False
    length_head: bool = False
    pad_id: int | None = None
    init: Literal["lecun", "torch"] = "lecun"
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "full"] = "dots"
    attention_impl: Literal["xla", "cudnn"] = "xla"
    norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        check_fields(self, "model")
        for name in (
            *("embed_dim", "hidden_dim", "num_layers", "num_heads"),
            *("mlp_dim", "max_length", "time_dim"),
        ):
            _require(
                getattr(self, name) >= 1, name, getattr(self, name), "an integer of at least 1"
            )
        _require(
            self.vocab_size is None or self.vocab_size >= 1,
            "vocab_size",
            self.vocab_size,
            "at least 1, or None to take it from the tokenizer",
        )
        for name in ("dropout", "attention_dropout"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        _require(
            self.pad_id is None or self.pad_id >= 0,
            "pad_id",
            self.pad_id,
            "an id, or None to take it from the tokenizer",
        )
        _require(self.norm_eps > 0, "norm_eps", self.norm_eps, "positive")
        _require(
            self.hidden_dim % self.num_heads == 0,
            "num_heads",
            self.num_heads,
            f"a divisor of hidden_dim ({self.hidden_dim})",
        )
        if self.attention_impl == "cudnn":
            _require(self.dtype == "bfloat16", "dtype", self.dtype, "bfloat16 with cudnn attention")
            _require(
                self.attention_dropout == 0,
                "attention_dropout",
                self.attention_dropout,
                "0 with cudnn attention",
            )
            _require(
                self.relative_positions == "none",
                "relative_positions",
                self.relative_positions,
                "none with cudnn attention",
            )
            _require(
                self.head_dim % 8 == 0,
                "num_heads",
                self.num_heads,
                "such that hidden_dim / num_heads is a multiple of 8 with cudnn attention",
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_dim // self.num_heads

    @property
    def input_dim(self) -> int:
        """Width of what enters the network at each position."""
        return self.embed_dim * (2 if self.self_conditioning else 1)


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise UserError(f"model.{name} is {value!r}; it must be {allowed}")
