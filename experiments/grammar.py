"""A Diffusion-LM of the built-in grammar, made for infilling and length control.

Command: diffusion-jax train experiments/grammar.py --scale small --workdir runs/grammar
Data: the built-in grammar; nothing to download. small: its small size; full: its full one.
Hardware: two CPU cores.
Time: some 20 minutes on two cores, small; about an hour, full (estimated).
Published: nothing. What control reaches with it: benchmarks/results/control.md.

It is the quickstart's network and recipe, trained for longer, and for three rows in ten some
words or the length are given, so that infilling and length control ask nothing new of the network.
"""

from dataclasses import replace

from diffusion_jax.config import ExperimentConfig
from diffusion_jax.quickstart import quickstart_config

STEPS = 50_000


def config(scale: str = "full") -> ExperimentConfig:
    if scale not in ("full", "small"):
        raise ValueError(f'scale is {scale!r}; choose "full" or "small"')
    recipe = quickstart_config("text", scale, steps=STEPS)
    return replace(
        recipe,
        name=f"grammar-{scale}",
        diffusion=replace(recipe.diffusion, positions="target", given_rate=0.3),
    )
