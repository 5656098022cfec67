"""What guidance costs beside its networks: ``python -m benchmarks.guidance [--output FILE]``.

Three programs for the same guided chain (200 steps, K = 3 Adagrad updates on a parts-of-speech
classifier, clamped, batch 50), alternating in one run:

- ``chain``: the one compiled scan that ``diffusion-jax control`` runs;
- ``calls``: its network and classifier calls alone (200 forward passes of the denoiser, 600 forward
  and backward passes of the classifier), compiled in one scan, nothing else;
- ``loop``: the same chain as a Python loop over one jitted step.

Goal: ``chain`` costs at most 1.3 times ``calls``.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.guidance import adagrad_guidance, label_log_prob, on_latent
from diffusion_jax.models.base import bind
from diffusion_jax.models.classifier import noise_aware_classifier
from diffusion_jax.models.shape import ClassifierConfig
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.models.transformer import transformer_denoiser
from diffusion_jax.samplers import clamp_to_embeddings, ddpm, sample, step_grid
from diffusion_jax.schedules import make_schedule
from diffusion_jax.types import StepInfo

STEPS, UPDATES = 200, 3
SIZES = {
    # The quickstart's model and the classifiers that steer it.
    "quickstart": {"batch": 50, "length": 18, "vocab": 132, "embed": 64, "width": 128, "layers": 4},
    # The E2E model at a quarter of the published depth and width.
    "e2e": {"batch": 50, "length": 64, "vocab": 821, "embed": 16, "width": 192, "layers": 3},
}


def programs(size: dict[str, int]) -> dict:
    """Return name -> function without arguments that runs one program to its end."""
    shape = (size["batch"], size["length"], size["embed"])
    model = transformer_denoiser(
        DenoiserConfig(
            vocab_size=size["vocab"],
            embed_dim=size["embed"],
            hidden_dim=size["width"],
            num_layers=size["layers"],
            num_heads=4,
            mlp_dim=4 * size["width"],
            max_length=size["length"],
            dropout=0.0,
            attention_dropout=0.0,
        )
    )
    classifier = noise_aware_classifier(
        ClassifierConfig(
            task="pos", num_classes=21, embed_dim=size["embed"], max_length=size["length"]
        )
    )
    params = model.init(jax.random.key(0))
    weights = classifier.init(jax.random.key(1))
    grid = step_grid(make_schedule("sqrt", 2000), STEPS)
    tags = jax.random.randint(jax.random.key(2), shape[:2], 0, 21)
    keys = jax.random.split(jax.random.key(3), shape[0])
    noise = jax.random.normal(jax.random.key(4), shape)

    def log_prob(weights):
        return label_log_prob(lambda x, time: classifier.logits(weights, x, time), tags)

    def run(params, weights, keys, grid, x):
        guide = adagrad_guidance(
            on_latent(log_prob(weights)), num_updates=UPDATES, min_t=None, fluency_weight=1e-4
        )
        clamp = clamp_to_embeddings(model.head(params).weight)
        return sample(
            keys, bind(model, params), ddpm(), grid, shape, x_init=x, clamp=clamp, guidance=guide
        ).x_start

    def calls(params, weights, x):
        denoise = bind(model, params)

        def score(x, time):
            return jnp.sum(log_prob(weights)(x, time))

        def step(x, time):
            times = jnp.full(shape[:1], time)
            x = denoise(x, times)
            for _ in range(UPDATES):
                # Each call needs the one before it, so that none can be left out.
                x = x + 1e-3 * jax.grad(score)(x, times)
            return x, None

        return jax.lax.scan(step, x, jnp.asarray(grid.time))[0]

    chain, only, step = jax.jit(run), jax.jit(calls), jax.jit(run)
    rows = [StepInfo(*(np.asarray(field[i : i + 1]) for field in grid)) for i in range(STEPS)]

    def loop():
        x = noise
        for row in rows:
            x = step(params, weights, keys, row, x)
        return x

    return {
        "chain": lambda: chain(params, weights, keys, grid, noise),
        "calls": lambda: only(params, weights, noise),
        "loop": loop,
    }


def measure(size: str, repeats: int) -> dict:
    """Return median seconds of each program, and the ratios."""
    runs = programs(SIZES[size])
    for run in runs.values():
        run().block_until_ready()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run().block_until_ready()
            seconds[name].append(time.perf_counter() - start)
    # Ratios of neighbours in time: what else the machine does then falls on both.
    ratio = statistics.median(a / b for a, b in zip(seconds["chain"], seconds["calls"]))
    loop = statistics.median(a / b for a, b in zip(seconds["loop"], seconds["chain"]))
    medians = {f"{name}_s": round(statistics.median(s), 3) for name, s in seconds.items()}
    return {
        "size": size,
        **SIZES[size],
        **medians,
        "chain_over_calls": round(ratio, 3),
        "loop_over_chain": round(loop, 3),
        "repeats": repeats,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def main() -> None:
    """Measure all sizes, print a table, write JSON lines where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="append JSON lines to this file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    arguments = parser.parse_args()
    for size in arguments.sizes:
        result = measure(size, arguments.repeats)
        print(
            f"{size}: chain {result['chain_s']} s, calls {result['calls_s']} s, "
            f"loop {result['loop_s']} s; chain / calls {result['chain_over_calls']}, "
            f"loop / chain {result['loop_over_chain']}",
            flush=True,
        )
        if arguments.output:
            with arguments.output.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
