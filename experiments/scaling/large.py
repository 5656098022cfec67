"""Denoisers of 1.3 and 7 billion parameters, to plan before paying for them.

Command: diffusion-jax plan --experiment experiments/scaling/large.py --scale 1.3b
    --topology v5e:16x16, or --scale 7b --topology v5p:8x8x8 (train takes it too).
Data: your own text (--data.corpus) and SentencePiece model (--tokenizer.vocab-file), 32,000 pieces.
Hardware: 1.3b: 256 TPU v5e chips. 7b: 512 TPU v5p chips.
Time: as planned, see docs/planning.md; not run.
Published: nothing; the sizes are those of language models (26 layers x 2048, 34 x 4096).
"""

from diffusion_jax.config import (
    DataConfig,
    DiffusionConfig,
    ExperimentConfig,
    MeshConfig,
    OptimConfig,
    TokenizerConfig,
    TrainConfig,
)
from diffusion_jax.models.spec import DenoiserConfig

# Layers, width, global batch, pieces that the state is cut into. (7b over all 512 chips sends twice
# as much: XLA then gathers and scatters by whole reductions.)
SIZES = {"1.3b": (26, 2048, 2048, 256), "7b": (34, 4096, 4096, 64)}


def config(scale: str = "1.3b") -> ExperimentConfig:
    if scale not in SIZES:
        raise ValueError(f'scale is {scale!r}; choose "1.3b" or "7b"')
    layers, width, batch_size, fsdp = SIZES[scale]
    return ExperimentConfig(
        name=f"denoiser-{scale}",
        data=DataConfig(corpus="corpus.txt", length=512, packing="block"),
        tokenizer=TokenizerConfig(kind="sentencepiece", vocab_file="pieces.model"),
        model=DenoiserConfig(
            vocab_size=32_000,
            embed_dim=256,
            hidden_dim=width,
            num_layers=layers,
            num_heads=width // 128,
            mlp_dim=4 * width,
            max_length=512,
            dropout=0.0,
            attention_dropout=0.0,
            norm="pre",
            dtype="bfloat16",
            remat="dots",
        ),
        diffusion=DiffusionConfig(timestep_sampler="stratified"),
        optim=OptimConfig(learning_rate=2e-4, warmup_steps=2000, clip_norm=1.0, weight_decay=0.1),
        train=TrainConfig(steps=200_000, batch_size=batch_size, ema_rates=(0.9999,)),
        mesh=MeshConfig(fsdp=fsdp),
    )
