"""Width against data at equal cost, on the grammar: what size is best for a budget of arithmetic?

Command: diffusion-jax sweep run experiments/scaling/isoflop.py --workdir runs/isoflop, then
    diffusion-jax sweep collect runs/isoflop --output isoflop.jsonl, then
    diffusion-jax sweep fit isoflop.jsonl --x flops --y "bound_nats_per_sentence - entropy"
Data: the built-in grammar ("small" for scale small, "full" for full); nothing to download.
Hardware: small: one CPU core. full: one GPU or TPU chip, or several machines with --part i/n.
Time: small: 6 minutes on one core. full: a few hours on one accelerator (estimated, not run).
Published: nothing for this corpus; the method is approach 2 of Hoffmann et al. 2022
    (arXiv:2203.15556).
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
from diffusion_jax.scale.flops import train_flops
from diffusion_jax.sweep import Job

HEAD_DIM = 8
BASE_WIDTH = 32


def jobs(scale: str = "full") -> list[Job]:
    if scale == "small":
        # Words of the grammar and the special tokens; only the budget's arithmetic needs it.
        corpus, length, vocab_size = "grammar:small", 18, 132
        widths, budgets, layers = (24, 32, 64, 96), (5e10, 1.5e11, 5e11), 2
    elif scale == "full":
        corpus, length, vocab_size = "grammar:full", 42, 463
        widths, budgets, layers = (64, 96, 128, 192, 256, 384), (1e15, 3e15, 1e16, 3e16), 4
    else:
        raise ValueError(f'scale is {scale!r}; choose "full" or "small"')
    return [
        _job(corpus, length, vocab_size, width, layers, budget)
        for budget in budgets
        for width in widths
    ]


def _job(corpus: str, length: int, vocab_size: int, width: int, layers: int, budget: float) -> Job:
    model = DenoiserConfig(
        embed_dim=16,
        hidden_dim=width,
        num_layers=layers,
        num_heads=width // HEAD_DIM,
        mlp_dim=4 * width,
        max_length=length,
        time_dim=32,
        dropout=0.0,
        attention_dropout=0.0,
        init="torch",
        remat="none",
    )
    batch_size = 32
    sized = DenoiserConfig(**{**vars(model), "vocab_size": vocab_size})
    steps = max(50, round(budget / (batch_size * train_flops(sized, length))))
    config = ExperimentConfig(
        name=f"isoflop-w{width}",
        data=DataConfig(corpus=corpus, size=20_000, length=length, on_long="drop"),
        tokenizer=TokenizerConfig(kind="word", min_count=0),
        model=model,
        optim=OptimConfig(
            learning_rate=5e-3,
            base_width=BASE_WIDTH,
            warmup_steps=min(100, steps // 10),
            clip_norm=1.0,
            betas=(0.9, 0.95),
        ),
        train=TrainConfig(
            steps=steps,
            batch_size=batch_size,
            ema_rates=(0.99,),
            validate_every=0,
            preview_every=0,
            checkpoint_every=max(1000, steps),
        ),
        sample=SampleConfig(steps=100),
    )
    name = f"w{width}-c{budget:.1e}".replace("+", "")
    return Job(name, config, {"width": width, "budget": budget})
