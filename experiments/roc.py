"""Diffusion-LM on ROCStories (arXiv 2205.14217, section 6).

Command: diffusion-jax train experiments/roc.py --workdir runs/roc
    --data.corpus roc_train.txt --data.validation roc_valid.txt [--scale small]
Data: five-sentence stories, one a line (98,161 in the original). The corpus is handed out on
    registration by its authors, so the files are yours to bring.
Hardware: full: one A100-class GPU or a TPU host. small: two CPU cores.
Time: full: about 20 hours on one A100 in the original. small: 30 minutes on two cores.
Published: 800,000 steps (the released script says 400,000), global batch 64, lr 1e-4 falling
    linearly to 0, T = 2000, sqrt schedule, E = 128, vocabulary 11,043, L = 64; a one-hot variant
    reaches 3.88 nats per token, an autoregressive Transformer 3.05 (appendix F).
"""

from diffusion_jax.config import (
    DataConfig,
    DiffusionConfig,
    ExperimentConfig,
    OptimConfig,
    SampleConfig,
    TokenizerConfig,
    TrainConfig,
)
from diffusion_jax.models.spec import DenoiserConfig


def config(scale: str = "full") -> ExperimentConfig:
    data = DataConfig(
        corpus="roc_train.txt", validation="roc_valid.txt", length=64, on_long="truncate"
    )
    tokenizer = TokenizerConfig(kind="word", min_count=10)
    if scale == "full":
        return ExperimentConfig(
            name="roc",
            data=data,
            tokenizer=tokenizer,
            model=DenoiserConfig(embed_dim=128, init="torch"),
            train=TrainConfig(steps=800_000),
            sample=SampleConfig(steps=2000),
        )
    if scale == "small":
        return ExperimentConfig(
            name="roc-small",
            data=data,
            tokenizer=tokenizer,
            model=DenoiserConfig(
                embed_dim=32,
                hidden_dim=192,
                num_layers=4,
                num_heads=4,
                mlp_dim=768,
                max_length=64,
                time_dim=64,
                dropout=0.0,
                attention_dropout=0.0,
                init="torch",
                self_conditioning=True,
            ),
            diffusion=DiffusionConfig(timestep_sampler="stratified", self_cond_rate=0.5),
            optim=OptimConfig(
                learning_rate=3e-3, warmup_steps=200, clip_norm=1.0, betas=(0.9, 0.95)
            ),
            train=TrainConfig(steps=6000, batch_size=32, ema_rates=(0.998,), checkpoint_every=1000),
            sample=SampleConfig(steps=200),
        )
    raise ValueError(f'scale is {scale!r}; choose "full" or "small"')
