"""One axis at a time, on the grammar: width, depth, batch, data or steps, everything else fixed.

Command: diffusion-jax sweep run experiments/scaling/one_axis.py --scale depth --workdir runs/depth,
    then sweep collect and sweep fit with --x network_parameters (width, depth), rows (batch, steps)
    or examples (data). The scale names the axis.
Data: the built-in grammar, "small"; nothing to download.
Hardware: one CPU core, or several machines with --part i/n.
Time: about 15 minutes on one core for each axis (estimated from experiments/scaling/isoflop.py).
Published: nothing for this corpus; such laws are those of Hestness et al. 2017 (arXiv:1712.00409).
"""

from dataclasses import replace
from typing import Any

from diffusion_jax.config import (
    DataConfig,
    ExperimentConfig,
    OptimConfig,
    SampleConfig,
    TokenizerConfig,
    TrainConfig,
)
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.sweep import Job

AXES = {
    "width": (24, 32, 64, 128),
    "depth": (1, 2, 4, 8),
    "batch": (8, 16, 32, 64, 128),
    "data": (300, 1000, 3000, 10_000, 30_000),
    "steps": (250, 500, 1000, 2000, 4000),
}
HEAD_DIM = 8


def jobs(scale: str = "width") -> list[Job]:
    if scale not in AXES:
        raise ValueError(f"scale is {scale!r}; it names the axis: {', '.join(AXES)}")
    return [_job(scale, value) for value in AXES[scale]]


def _job(axis: str, value: int) -> Job:
    values: dict[str, Any] = {"width": 64, "depth": 2, "batch": 32, "data": 20_000, "steps": 2000}
    values[axis] = value
    width, steps, length = values["width"], values["steps"], 18
    config = ExperimentConfig(
        name=f"{axis}-{value}",
        data=DataConfig(corpus="grammar:small", size=values["data"], length=length),
        tokenizer=TokenizerConfig(kind="word", min_count=0),
        model=DenoiserConfig(
            embed_dim=16,
            hidden_dim=width,
            num_layers=values["depth"],
            num_heads=width // HEAD_DIM,
            mlp_dim=4 * width,
            max_length=length,
            time_dim=32,
            dropout=0.0,
            attention_dropout=0.0,
            init="torch",
            remat="none",
        ),
        optim=OptimConfig(
            learning_rate=5e-3,
            warmup_steps=min(100, steps // 10),
            clip_norm=1.0,
            betas=(0.9, 0.95),
        ),
        train=TrainConfig(
            steps=steps,
            batch_size=values["batch"],
            ema_rates=(0.99,),
            validate_every=0,
            preview_every=0,
            checkpoint_every=max(1000, steps),
        ),
        sample=SampleConfig(steps=100),
    )
    if axis == "width":
        config = replace(config, optim=replace(config.optim, base_width=32))
    return Job(f"{axis}-{value}", config, {axis: value, "examples": values["data"]})
