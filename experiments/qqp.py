"""DiffuSeq on Quora question pairs: paraphrasing (arXiv 2210.08933, table 1).

Command: diffusion-jax train experiments/qqp.py --workdir runs/qqp [--scale base]
    --data.corpus train.jsonl --data.validation valid.jsonl --tokenizer.vocab-file vocab.txt
    or, without BERT's vocabulary:
    diffusion-jax train experiments/qqp.py --workdir runs/qqp --scale small
    --data.corpus train.jsonl --data.validation valid.jsonl
Data: JSON lines {"src", "trg"} as DiffuSeq publishes them, 144,715 pairs; BERT's vocab.txt (30,522
    WordPieces, uncased; needs the extra `hf`). The small scale learns a SentencePiece vocabulary
    from the corpus instead.
    base: the same data; small's recipe at the published network's size, written in 20 steps.
Hardware: full: four A100-class GPUs or a TPU host. base: one of them. small: two CPU cores.
Time: full: about two days on four A100 in the original. small: 30 minutes on two cores. base: not
    run yet; its learning rate and steps are guesses.
Published: 50,000 steps, global batch 8,192 (2,048 on each of four GPUs), lr 1e-4 falling linearly
    to 0, T = 2000, sqrt schedule, E = 128, L = 128, loss-aware timesteps. With 10 candidates and
    minimum Bayes risk: BLEU 0.2413, ROUGE-L 0.5880, BERTScore 0.8365, dist-1 0.9807; without, BLEU
    0.1847 (arXiv 2212.10325, table 1).
    To compare: `evaluate --preset diffuseq --tokenizer runs/qqp`, by which references
    are spelled as the model's tokenizer spells, as they were there.
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
    if scale == "full":
        return ExperimentConfig(
            name="qqp",
            data=DataConfig(
                corpus="train.jsonl",
                validation="valid.jsonl",
                task="pair",
                length=128,
                on_long="truncate",
            ),
            tokenizer=TokenizerConfig(kind="wordpiece", vocab_file="vocab.txt"),
            model=DenoiserConfig(embed_dim=128, init="torch"),
            diffusion=DiffusionConfig(timestep_sampler="loss_aware"),
            # 64 rows at a time, as published; fewer microbatches where memory allows.
            train=TrainConfig(steps=50_000, batch_size=8192, microbatches=128),
            sample=SampleConfig(steps=2000, variance="fixed_large"),
        )
    if scale == "small":
        return ExperimentConfig(
            name="qqp-small",
            data=DataConfig(
                corpus="train.jsonl",
                validation="valid.jsonl",
                task="pair",
                length=48,
                length_bucket=8,
                on_long="drop",
            ),
            tokenizer=TokenizerConfig(kind="sentencepiece", vocab_size=4000, lowercase=True),
            model=DenoiserConfig(
                embed_dim=64,
                hidden_dim=192,
                num_layers=4,
                num_heads=8,
                mlp_dim=768,
                max_length=48,
                time_dim=64,
                dropout=0.0,
                attention_dropout=0.0,
                init="torch",
                self_conditioning=True,
                relative_positions="mixed",
                length_head=True,
            ),
            diffusion=DiffusionConfig(
                timestep_sampler="stratified", self_cond_rate=0.5, positions="target"
            ),
            optim=OptimConfig(
                learning_rate=3e-3, warmup_steps=200, clip_norm=1.0, betas=(0.9, 0.95)
            ),
            train=TrainConfig(
                steps=12_000,
                batch_size=32,
                ema_rates=(0.998,),
                validate_every=1000,
                preview_every=1000,
                checkpoint_every=1000,
            ),
            # Measured: benchmarks/results/steps.md.
            sample=SampleConfig(steps=20, noise_scale=0.3, time_shift=0.15, clamp="none"),
        )
    if scale == "base":
        full, small = config("full"), config("small")
        return replace(
            full,
            name="qqp-base",
            data=replace(full.data, length_bucket=16),
            model=replace(
                full.model,
                dtype="bfloat16",
                self_conditioning=True,
                relative_positions="mixed",
                length_head=True,
            ),
            diffusion=small.diffusion,
            optim=replace(small.optim, learning_rate=3e-4, warmup_steps=2000),
            train=replace(full.train, steps=100_000, batch_size=512, microbatches=1),
            sample=small.sample,
        )
    raise ValueError(f'scale is {scale!r}; choose "full", "base" or "small"')
