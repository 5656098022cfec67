"""What is measured: two networks, and the batches they see."""

import dataclasses

from diffusion_jax.models.spec import DenoiserConfig


@dataclasses.dataclass(frozen=True)
class Size:
    """One network and one batch.

    Attributes:
        name: how tables call it.
        spec: the network; the PyTorch model is built from the same record.
        batch_size: B.
        length: L.
        repeats: timed repetitions of everything at this size.
    """

    name: str
    spec: DenoiserConfig
    batch_size: int
    length: int
    repeats: int

    @property
    def tokens(self) -> int:
        """Tokens in one batch."""
        return self.batch_size * self.length


SMALL = Size(
    name="small",
    spec=DenoiserConfig(
        vocab_size=8000,
        embed_dim=64,
        hidden_dim=256,
        num_layers=4,
        num_heads=8,
        mlp_dim=1024,
        max_length=64,
    ),
    batch_size=32,
    length=64,
    repeats=7,
)

BERT_BASE = Size(
    name="bert-base",
    spec=DenoiserConfig(vocab_size=30522),
    batch_size=8,
    length=128,
    repeats=3,
)

SMOKE = Size(
    name="smoke",
    spec=DenoiserConfig(
        vocab_size=500,
        embed_dim=16,
        hidden_dim=32,
        num_layers=2,
        num_heads=2,
        mlp_dim=64,
        max_length=16,
        time_dim=16,
    ),
    batch_size=4,
    length=16,
    repeats=2,
)
