"""Training techniques at equal training time: data to text on the grammar, or pairs of a file.

Command: python -m benchmarks.techniques PRESET ... [--seconds 150] [--seed 0] [--output FILE]
    [--train train.jsonl --valid valid.jsonl] [--runs DIRECTORY]

Every preset trains the same small network with the same optimiser for the same processor time (see
``equal_time``), then writes with every sampler of the list. Texts of the grammar are judged by
parsing: the share that is in the language, and the share that says exactly what was asked; BLEU
against one reference says more where those are near 0. One JSON line per preset and sampler is
appended. With --runs a training that was stopped by a signal goes on when the same command is given
again.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.equal_time import train_for
from benchmarks.records import record
from diffusion_jax.config import ExperimentConfig, TokenizerConfig
from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.overlap import corpus_bleu
from diffusion_jax.generate import Generator
from diffusion_jax.quickstart import quickstart_config
from diffusion_jax.scale.host_memory import use_memory_well
from diffusion_jax.text.corpora import open_corpus
from diffusion_jax.text.grammar import load_grammar

_TARGET: dict[str, Any] = {"diffusion.positions": "target"}
_BASE = {
    **_TARGET,
    "model.self_conditioning": True,
    "diffusion.self_cond_rate": 0.5,
    "diffusion.timestep_sampler": "stratified",
}
_POSTERIOR = {
    "model.readout": "posterior",
    "model.normalize_embedding": True,
    "diffusion.objective": "cross_entropy",
}
_ABSORBING = {"model.mean_embed": True, "diffusion.absorb_rate": 0.5}
PRESETS: dict[str, dict[str, Any]] = {
    # DiffuSeq: loss over all positions, loss-aware timesteps.
    "published": {"diffusion.timestep_sampler": "loss_aware"},
    # DiffuSeq-v2: that, around a learned absorbing state, with discrete noise.
    "v2": {"diffusion.timestep_sampler": "loss_aware", **_ABSORBING},
    "all": {"diffusion.timestep_sampler": "stratified"},
    "target": {**_TARGET, "diffusion.timestep_sampler": "stratified"},
    "self_cond": _BASE,
    "self_cond_all": {**_BASE, "diffusion.positions": "all"},
    # Each of these on top of self_cond.
    "clip": {**_BASE, "diffusion.clip_noise": "auto"},
    "adaptive": {
        **_BASE,
        "diffusion.position_schedule": "adaptive",
        "diffusion.adapt_every": 100,
    },
    "length_head": {**_BASE, "model.length_head": True},
    "length_bucket": {**_BASE, "model.length_head": True, "data.length_bucket": 8},
    "absorbing": {**_BASE, **_ABSORBING},
    "bfloat16": {**_BASE, "model.dtype": "bfloat16"},
    "snr": {**_BASE, "diffusion.snr_weight": 1.0},
    "bucket_snr": {
        **_BASE,
        "model.length_head": True,
        "data.length_bucket": 8,
        "diffusion.snr_weight": 1.0,
    },
    "guidance": {**_BASE, "diffusion.source_drop_rate": 0.1},
    "cross_entropy": {**_BASE, **_POSTERIOR},
    "time_warp": {**_BASE, **_POSTERIOR, "diffusion.timestep_sampler": "time_warp"},
    "clip_warp": {
        **_BASE,
        **_POSTERIOR,
        "diffusion.timestep_sampler": "time_warp",
        "diffusion.clip_noise": "auto",
    },
}
SAMPLERS: tuple[dict[str, Any], ...] = (
    {"sampler": "ddim", "steps": 20, "clamp": "none"},
    {"sampler": "ddim", "steps": 20, "clamp": "all"},
    {"sampler": "ddpm", "steps": 200, "clamp": "all"},
)
_SOLVER: dict[str, Any] = {"sampler": "dpm++", "order": 2, "steps": 10, "clamp": "none"}
# States less noisy than the network is told.
_CALM: dict[str, Any] = {
    "sampler": "ddpm",
    "steps": 10,
    "clamp": "none",
    "noise_scale": 0.0,
    "time_shift": 0.15,
}
# What only some presets can do, or are compared by.
MORE_SAMPLERS: dict[str, tuple[dict[str, Any], ...]] = {
    "published": (_SOLVER, _CALM),
    "v2": (_SOLVER, {**_SOLVER, "faithful_v2": True}, _CALM),
    "absorbing": (_SOLVER, {**_SOLVER, "faithful_v2": True}, _CALM),
    "self_cond": (_SOLVER, _CALM),
    "guidance": tuple({**options, "guidance_scale": 2.0} for options in SAMPLERS),
    "cross_entropy": ({**SAMPLERS[0], "temperature": 0.5},),
}


def configured(preset: str, arguments: argparse.Namespace) -> ExperimentConfig:
    """Return the configuration of a preset; its number of steps is set later."""
    config = quickstart_config("seq2seq", "small")
    plain = replace(config.diffusion, positions="all", self_cond_rate=0.0, snr_weight=0.0)
    config = replace(
        config,
        name=preset,
        model=replace(config.model, self_conditioning=False),
        diffusion=plain,
        train=replace(config.train, seed=arguments.seed, validate_every=0, preview_every=0),
    )
    if arguments.train:
        config = replace(
            config,
            data=replace(
                config.data,
                corpus=arguments.train,
                validation=arguments.valid,
                size=0,
                length=48,
            ),
            tokenizer=TokenizerConfig(kind="sentencepiece", vocab_size=4000),
            model=replace(config.model, max_length=48),
        )
    options = PRESETS[preset]
    # The options of one section depend on those of another, so all change at once.
    sections = {name.split(".")[0] for name in options}
    return replace(
        config,
        **{
            section: replace(
                getattr(config, section),
                **{
                    name.split(".")[1]: value
                    for name, value in options.items()
                    if name.startswith(f"{section}.")
                },
            )
            for section in sections
        },
    )


def references(arguments: argparse.Namespace) -> tuple[list[str], list[str], list[Any]]:
    """Return sources, references and what the grammar was asked to say (or Nones)."""
    if arguments.valid:
        corpus = open_corpus(arguments.valid, task="pair", size=arguments.samples)
        pairs = list(corpus)
        return [p.src for p in pairs], [p.trg for p in pairs], [None] * len(pairs)
    pairs = list(load_grammar("small").data_to_text(1, arguments.samples, "test"))
    return [p.src for p in pairs], [p.trg for p in pairs], [p.attributes for p in pairs]


def judge(texts: Sequence[str], wanted: Sequence[str], attributes: Sequence[Any]) -> dict[str, Any]:
    """Return the figures of one set of texts."""
    figures: dict[str, Any] = {
        "bleu": corpus_bleu(texts, wanted),
        "distinct": len(set(texts)),
    }
    if attributes[0] is not None:
        grammar = load_grammar("small")
        figures["in_language"] = float(np.mean([grammar.accepts(text) for text in texts]))
        exact = [grammar.says(text, asked) for text, asked in zip(texts, attributes)]
        figures["says_exactly"] = float(np.mean(exact))
    return figures


def fits(generator: Generator, source: str) -> bool:
    """Return whether a source can be written for: training dropped what could not."""
    try:
        generator.check_source(source, 0)
    except UserError:
        return False
    return True


def measure(preset: str, arguments: argparse.Namespace, runs: Path) -> None:
    """Train one preset and judge what it writes; a line is written as soon as it is known."""
    workdir = runs / f"{preset}-seed{arguments.seed}"
    plan = train_for(arguments.seconds, configured(preset, arguments), workdir)
    generator = Generator.from_checkpoint(workdir)
    rows = list(zip(*references(arguments)))
    if generator.config.data.on_long == "drop":
        rows = [row for row in rows if fits(generator, row[0])]
    sources, wanted, attributes = zip(*rows)
    for options in (*SAMPLERS, *MORE_SAMPLERS.get(preset, ())):
        writer = generator.with_sampling(**options)
        written = writer.generate(sources, batch_size=100, seed=arguments.seed)
        texts = [generation.candidates[0] for generation in written]
        row = {
            "preset": preset,
            "task": Path(arguments.train).name if arguments.train else "grammar:small/data_to_text",
            "budget_cpu_s": arguments.seconds,
            **plan,
            "seed": arguments.seed,
            "samples": len(texts),
            **options,
            **judge(texts, wanted, attributes),
        }
        record(row, arguments.output)


def main() -> None:
    """Measure the presets that were named, one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("presets", nargs="+", choices=sorted(PRESETS))
    parser.add_argument("--seconds", type=float, default=150.0, help="processor time of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--train", default="", help="JSON lines of pairs; default the grammar")
    parser.add_argument("--valid", default="")
    parser.add_argument("--runs", type=Path, help="keep the runs here; default a temporary place")
    parser.add_argument("--output", type=Path, help="JSON lines file to append to")
    arguments = parser.parse_args()
    if bool(arguments.train) != bool(arguments.valid):
        parser.error("give --train and --valid together")
    use_memory_well()
    with tempfile.TemporaryDirectory() as folder:
        for preset in arguments.presets:
            print(f"{preset} ...", file=sys.stderr)
            measure(preset, arguments, arguments.runs or Path(folder))


if __name__ == "__main__":
    main()
