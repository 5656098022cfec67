"""A Diffusion-LM in two minutes: to see that everything works, and as a template for your own.

Command: diffusion-jax train experiments/tiny.py --workdir runs/tiny
Data: the built-in grammar, size "small"; nothing to download.
Hardware: any; one laptop core is enough.
Time: about two minutes on two cores.
Published: nothing; `diffusion-jax quickstart` is the larger run with a report.
"""

from diffusion_jax.config import (
    DataConfig,
    ExperimentConfig,
    OptimConfig,
    SampleConfig,
    TokenizerConfig,
    TrainConfig,
)
from diffusion_jax.models.spec import DenoiserConfig


def config(scale: str = "full") -> ExperimentConfig:
    if scale not in ("full", "small"):
        raise ValueError(f'scale is {scale!r}; choose "full" or "small" (the same here)')
    return ExperimentConfig(
        name="tiny",
        data=DataConfig(corpus="grammar:small", size=10_000, length=18),
        tokenizer=TokenizerConfig(kind="word", min_count=0),
        model=DenoiserConfig(
            embed_dim=16,
            hidden_dim=64,
            num_layers=2,
            num_heads=4,
            mlp_dim=256,
            max_length=18,
            time_dim=64,
            dropout=0.0,
            attention_dropout=0.0,
        ),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=100),
        train=TrainConfig(
            steps=2000,
            batch_size=32,
            ema_rates=(0.99,),
            validate_every=500,
            preview_every=500,
            checkpoint_every=500,
        ),
        sample=SampleConfig(steps=100),
    )
