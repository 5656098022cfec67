"""DiffuSeq on Wiki-Auto: simplifying a sentence (arXiv 2210.08933, table 1).

Command: diffusion-jax train experiments/wiki_auto.py --workdir runs/wiki_auto
    --data.corpus train.jsonl --data.validation valid.jsonl --tokenizer.vocab-file vocab.txt
    or, without BERT's vocabulary:
    diffusion-jax train experiments/wiki_auto.py --workdir runs/wiki_auto --scale small
    --data.corpus train.jsonl --data.validation valid.jsonl
Data: JSON lines {"src", "trg"} as DiffuSeq publishes them, about 677,000 pairs; BERT's vocab.txt
    (30,522 WordPieces, uncased; needs the extra `hf`). The small scale learns a
    SentencePiece vocabulary from the corpus instead.
Hardware: full: eight A100-class GPUs or a TPU host. small: two CPU cores.
Time: full: not stated by the authors; 3.2 times as many row updates as QQP, which took two
    days on four A100. small: 30 minutes on two cores.
Published: 80,000 steps, global batch 16,384 (2,048 on each of eight GPUs), lr 1e-4 falling
    linearly to 0, T = 2000, sqrt schedule, E = 128, L = 128, loss-aware timesteps. With 10
    candidates and minimum Bayes risk: BLEU 0.3622, ROUGE-L 0.5849, BERTScore 0.8126, dist-1
    0.9264; without, BLEU 0.2989 (arXiv 2212.10325, table 1).
    To compare: `evaluate --preset diffuseq --tokenizer runs/wiki_auto`, by which references
    are spelled as the model's tokenizer spells, as they were there.
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
    if scale == "full":
        return ExperimentConfig(
            name="wiki-auto",
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
            train=TrainConfig(steps=80_000, batch_size=16384, microbatches=256),
            sample=SampleConfig(steps=2000, variance="fixed_large"),
        )
    if scale == "small":
        return ExperimentConfig(
            name="wiki-auto-small",
            data=DataConfig(
                corpus="train.jsonl",
                validation="valid.jsonl",
                task="pair",
                length=80,
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
                max_length=80,
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
                steps=6000,
                batch_size=32,
                ema_rates=(0.998,),
                validate_every=1000,
                preview_every=1000,
                checkpoint_every=1000,
            ),
            # As for QQP, where it was measured: benchmarks/results/steps.md.
            sample=SampleConfig(steps=20, noise_scale=0.3, time_shift=0.15, clamp="none"),
        )
    raise ValueError(f'scale is {scale!r}; choose "full" or "small"')
