"""The shapes of the networks beside the denoiser, as data: needs no jax."""

import dataclasses
from typing import Literal

from diffusion_jax.errors import UserError
from diffusion_jax.fields import check_fields

ClassifierTask = Literal["attribute", "pos", "tree"]

_SIZES = ("hidden_dim", "num_layers", "num_heads", "mlp_dim")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerShape:
    """A stack of Transformer blocks (defaults: small enough for two CPU cores).

    BERT-base, the published size, is ``hidden_dim=768, num_layers=12, num_heads=12, mlp_dim=3072``.

    Attributes:
        hidden_dim: D, width of the Transformer.
        num_layers: number of blocks.
        num_heads: attention heads; must divide ``hidden_dim``.
        mlp_dim: width of the feed-forward layers.
        dropout: probability of dropping a hidden unit, in [0, 1).
        attention_dropout: probability of dropping an attention weight, in [0, 1).
        norm: "pre" (default) or "post" (BERT) LayerNorm.
        init: "lecun" or "torch", see ``DenoiserConfig``.
        dtype: what matrix products are computed in; all else stays float32.
        remat: what the backward pass computes again, see ``DenoiserConfig``.
        norm_eps: added to the variance in LayerNorm.
    """

    hidden_dim: int = 128
    num_layers: int = 2
    num_heads: int = 4
    mlp_dim: int = 512
    dropout: float = 0.0
    attention_dropout: float = 0.0
    norm: Literal["post", "pre"] = "pre"
    init: Literal["lecun", "torch"] = "lecun"
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "full"] = "none"
    norm_eps: float = 1e-6

    @property
    def attention_impl(self) -> str:
        """What computes attention: XLA, which every device has."""
        return "xla"

    @property
    def relative_positions(self) -> str:
        """How attention knows distances: only the denoiser's does."""
        return "none"

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_dim // self.num_heads

    def __post_init__(self) -> None:
        """Check ranges."""
        check_fields(self, "model")
        for name in _SIZES:
            self._require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("dropout", "attention_dropout"):
            self._require(0 <= getattr(self, name) < 1, name, "in [0, 1)")
        self._require(self.norm_eps > 0, "norm_eps", "positive")
        self._require(
            self.hidden_dim % self.num_heads == 0,
            "num_heads",
            f"a divisor of hidden_dim ({self.hidden_dim})",
        )

    def _require(self, holds: bool, name: str, allowed: str) -> None:
        if not holds:
            raise UserError(f"model.{name} is {getattr(self, name)!r}; it must be {allowed}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig(TransformerShape):
    """A noise-aware classifier p(label | x_t, t) over latents (Li et al. 2022, section 5).

    Attributes:
        task: "attribute": one label for each field of a row; "pos": one for each position; "tree":
            one for each span of positions.
        num_classes: how many labels; "attribute": summed over the fields. None until the labels
            are known.
        embed_dim: E, width of the latents; None until the checkpoint is known.
        max_length: rows of the position table, the longest sequence the network accepts; None until
            the checkpoint is known.
        time_dim: width of the sinusoidal time features.
    """

    task: ClassifierTask = "attribute"
    num_classes: int | None = None
    embed_dim: int | None = None
    max_length: int | None = None
    time_dim: int = 64

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self._require(self.task in ("attribute", "pos", "tree"), "task", "attribute, pos or tree")
        self._require(self.time_dim >= 1, "time_dim", "at least 1")
        for name in ("num_classes", "embed_dim", "max_length"):
            value = getattr(self, name)
            self._require(value is None or value >= 1, name, "at least 1, or unset")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig(TransformerShape):
    """A causal Transformer that predicts the next token; input and output share their table.

    Attributes:
        vocab_size: V; None until the tokenizer is known.
        max_length: rows of the position table; None until the data is known.
    """

    vocab_size: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        for name in ("vocab_size", "max_length"):
            value = getattr(self, name)
            self._require(value is None or value >= 1, name, "at least 1, or unset")
