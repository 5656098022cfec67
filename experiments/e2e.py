"""Diffusion-LM on the E2E restaurant descriptions (arXiv 2205.14217, section 6).

Command: diffusion-jax train experiments/e2e.py --workdir runs/e2e
    --data.corpus src1_train.txt --data.validation src1_valid.txt [--scale small]
Data: the E2E challenge as Diffusion-LM publishes it, one `key : value | ...||text` a line; 42,061
    training and 4,672 validation texts. The challenge's own csv (columns mr, ref) and
    `tfds:e2e_cleaned` (a cleaned re-release: other numbers) work too; their texts get the newline
    at the end that those files have (`--data.no-keep-newline` leaves it out).
    small: texts of up to 46 tokens, some words given in three rows of ten, as for control.
Hardware: full: one A100-class GPU or a TPU host. small: two CPU cores.
Time: full: about 5 hours on one A100 in the original. small: 30 minutes on two cores.
Published: 200,000 steps, global batch 64, lr 1e-4 falling linearly to 0, T = 2000, sqrt schedule,
    E = 16, vocabulary 821, L = 64. No likelihood of this model is published; a variant with one-hot
    latents reaches 2.28 nats per token, an autoregressive Transformer 1.77 (appendix F).
"""

from dataclasses import replace

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
        corpus="src1_train.txt",
        validation="src1_valid.txt",
        length=64,
        on_long="truncate",
        keep_newline=True,
    )
    tokenizer = TokenizerConfig(kind="word", min_count=10)
    if scale == "full":
        return ExperimentConfig(
            name="e2e",
            data=data,
            tokenizer=tokenizer,
            # BERT-base as published: post-LN, PyTorch's initialisation, dropout 0.1.
            model=DenoiserConfig(embed_dim=16, init="torch"),
            sample=SampleConfig(steps=2000),
        )
    if scale == "small":
        return ExperimentConfig(
            name="e2e-small",
            # One text in two hundred is longer, and is cut.
            data=replace(data, length=48),
            tokenizer=tokenizer,
            model=DenoiserConfig(
                embed_dim=64,
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
                relative_positions="local",
            ),
            # Names and foods can stand for one another: without the weight the network is blind to
            # the rare ones, and control cannot ask for them (benchmarks/results/quickstart.md).
            diffusion=DiffusionConfig(
                timestep_sampler="stratified",
                self_cond_rate=0.5,
                snr_weight=2.0,
                positions="target",
                given_rate=0.3,
            ),
            optim=OptimConfig(
                learning_rate=4e-3, warmup_steps=200, clip_norm=1.0, betas=(0.9, 0.95)
            ),
            train=TrainConfig(
                steps=10_000,
                batch_size=32,
                ema_rates=(0.998,),
                validate_every=1000,
                preview_every=1000,
                checkpoint_every=1000,
            ),
            sample=SampleConfig(steps=100, noise_scale=0.7, time_shift=0.05),
        )
    raise ValueError(f'scale is {scale!r}; choose "full" or "small"')
