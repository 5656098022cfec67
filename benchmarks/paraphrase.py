"""Three writers of paraphrases at equal training time: autoregressive, as published, recommended.

Command: python -m benchmarks.paraphrase --train train.jsonl --valid valid.jsonl --runs DIRECTORY
    [--seconds 1800] [--sources 100] [--candidates 10] [--writers NAME ...] [--steps N]
    [--clamp all|none] [--output FILE]

All three have the size, the batches, the tokenizer and the processor time (seconds of all threads)
of ``experiments/qqp.py --scale small`` (see ``equal_time``); they do without validation and
previews.

- autoregressive: a causal Transformer of the same blocks; greedy, or with several candidates
  sampled at temperature 0.7.
- published: DiffuSeq's loss over all positions, loss-aware timesteps, no self-conditioning, no
  bias by distance, full rows with padding of its own making; 2000 ancestral steps of the larger
  variance, estimates clamped at every step, as its program does.
- recommended: the experiment as it stands (20 steps, not clamped).

--steps and --clamp change how published and recommended write; a run that is trained is used again.

The first candidate of each source makes the line of one candidate, as a candidate depends on seed,
source and its own number alone; of several one is chosen by minimum Bayes risk with BLEU. Speed
counts whole batches after the first one, which compiles; a writer that is done within a minute
writes a second time and that is counted. One JSON line per writer and number of candidates is
appended. A training that was stopped goes on when the same command is given again.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.equal_time import Config, train_for
from benchmarks.records import record
from diffusion_jax.autoregressive_run import TrainedAutoregressive
from diffusion_jax.config import AutoregressiveRunConfig, SampleConfig
from diffusion_jax.config.control import AUTOREGRESSIVE_OPTIM
from diffusion_jax.config_io import load_experiment
from diffusion_jax.evaluate.presets import PRESETS
from diffusion_jax.generate import Generator
from diffusion_jax.mbr import RULES, mbr_select
from diffusion_jax.scale.host_memory import use_memory_well
from diffusion_jax.text.corpora import open_corpus

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "qqp.py"
WRITERS = ("autoregressive", "published", "recommended")
TEMPERATURE = 0.7
# On a CPU larger batches leave its caches: 25 rows at a time write 1.2 to 1.4 times as fast as 100.
BATCH_SIZE = 25
AGAIN_BELOW_SECONDS = 60.0


def configured(writer: str, arguments: argparse.Namespace) -> Config:
    """Return a writer's configuration; its number of steps is set later."""
    config = load_experiment(EXPERIMENT, scale="small")
    config = replace(
        config,
        data=replace(config.data, corpus=arguments.train, validation=arguments.valid),
        train=replace(config.train, seed=arguments.seed, validate_every=0, preview_every=0),
    )
    if writer == "recommended":
        return config
    model = config.model
    if writer == "published":
        return replace(
            config,
            data=replace(config.data, length_bucket=0),
            model=replace(
                model, self_conditioning=False, relative_positions="none", length_head=False
            ),
            diffusion=replace(
                config.diffusion,
                timestep_sampler="loss_aware",
                self_cond_rate=0.0,
                positions="all",
            ),
            sample=SampleConfig(steps=2000, variance="fixed_large", clamp="all"),
        )
    shape = {
        name: getattr(model, name)
        for name in ("hidden_dim", "num_layers", "num_heads", "mlp_dim", "dropout", "remat")
    }
    run = AutoregressiveRunConfig(
        data=replace(config.data, length_bucket=0),
        tokenizer=config.tokenizer,
        optim=AUTOREGRESSIVE_OPTIM,
        train=config.train,
    )
    return replace(run, model=replace(run.model, **shape, attention_dropout=0.0))


Arrived = Callable[[int], None]
"""Is told how many sources are done."""
Write = Callable[[Sequence[str], int, Arrived], list[list[str]]]
"""(sources, number of candidates C, whom to tell) -> texts [S][C]."""


def writing(writer: str, workdir: Path, seed: int, changes: Mapping[str, Any]) -> Write:
    """Return what lets a trained writer write, sampling options changed as they say."""
    if writer == "autoregressive":
        model = TrainedAutoregressive.load(workdir)

        def write(sources: Sequence[str], count: int, arrived: Arrived) -> list[list[str]]:
            heat = 0.0 if count == 1 else TEMPERATURE
            written = [model.generate(sources, temperature=heat, seed=i) for i in range(count)]
            arrived(len(sources))
            return [list(texts) for texts in zip(*written)]

        return write
    generator = Generator.from_checkpoint(workdir, **changes)

    def generate(sources: Sequence[str], count: int, arrived: Arrived) -> list[list[str]]:
        found = []
        for generation in generator.generate(
            sources,
            num_candidates=count,
            batch_size=BATCH_SIZE,
            seed=seed,
        ):
            found.append(list(generation.candidates))
            arrived(len(found))
        return found

    return generate


class Stopwatch:
    """Sources per second over the batches after the first one."""

    def __init__(self, first_batch: int) -> None:
        self._first_batch = first_batch
        self._began = time.perf_counter()
        self._marks: list[tuple[int, float]] = []

    def arrived(self, count: int) -> None:
        """Note that ``count`` sources are done."""
        self._marks.append((count, time.perf_counter()))

    def rate(self) -> float:
        """Return sources per second, without the first batch where there are several."""
        done, ended = self._marks[-1]
        first = [mark for mark in self._marks if mark[0] == self._first_batch]
        if not first or first[0][0] == done:
            return done / (ended - self._began)
        return (done - first[0][0]) / (ended - first[0][1])

    def seconds(self) -> float:
        """Return the time since the beginning."""
        return time.perf_counter() - self._began


def timed(write: Write, sources: Sequence[str], count: int) -> tuple[list[list[str]], float]:
    """Write; return the texts and the sources per second."""
    watch = Stopwatch(BATCH_SIZE // count)
    texts = write(sources, count, watch.arrived)
    if watch.seconds() > AGAIN_BELOW_SECONDS:
        return texts, watch.rate()
    began = time.perf_counter()
    texts = write(sources, count, lambda done: None)
    return texts, len(sources) / (time.perf_counter() - began)


def figures(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return corpus BLEU, ROUGE-L, dist-1 and length, and BLEU as DiffuSeq computes it."""
    standard, published = PRESETS["standard"].metrics, PRESETS["diffuseq"].metrics
    found = {
        name: standard[name](texts, references) for name in ("bleu", "rouge_l", "dist_1", "length")
    }
    return {**found, "diffuseq_bleu": published["bleu"](texts, references)}


def measure(writer: str, arguments: argparse.Namespace) -> None:
    """Train one writer, let it write, and append what came of it."""
    workdir = arguments.runs / f"{writer}-seed{arguments.seed}"
    plan = train_for(arguments.seconds, configured(writer, arguments), workdir)
    pairs = list(open_corpus(arguments.valid, task="pair", size=arguments.sources))
    sources, references = [pair.src for pair in pairs], [pair.trg for pair in pairs]
    changes = {
        name: value
        for name, value in (("steps", arguments.steps), ("clamp", arguments.clamp))
        if value is not None
    }
    write = writing(writer, workdir, arguments.seed, changes)
    several, rate = timed(write, sources, arguments.candidates)
    if writer == "autoregressive":
        one, one_rate = timed(write, sources, 1)
    else:
        # A row costs what it costs, whatever source it belongs to.
        one, one_rate = [texts[:1] for texts in several], rate * arguments.candidates
    lines = [(1, [texts[0] for texts in one], one_rate)]
    if arguments.candidates > 1:
        chosen = mbr_select(several, RULES["standard"].utility)
        best = [texts[int(index)] for texts, index in zip(several, chosen)]
        lines.append((arguments.candidates, best, rate))
    for count, texts, speed in lines:
        row = {
            "writer": writer,
            **changes,
            "candidates": count,
            "budget_cpu_s": arguments.seconds,
            **plan,
            "seed": arguments.seed,
            "sources": len(sources),
            **{name: round(value, 4) for name, value in figures(texts, references).items()},
            "sources_per_s": speed,
            "examples": [f"{a} => {b}" for a, b in zip(sources[:5], texts)],
        }
        record(row, arguments.output)


def main() -> None:
    """Measure the writers that were named, one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", required=True, help="JSON lines of pairs")
    parser.add_argument("--valid", required=True)
    parser.add_argument("--runs", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--writers", nargs="+", choices=WRITERS, default=WRITERS)
    parser.add_argument("--seconds", type=float, default=1800.0, help="processor time of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sources", type=int, default=100)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--steps", type=int, help="network calls of the two diffusion writers")
    parser.add_argument("--clamp", choices=("all", "none"))
    parser.add_argument("--output", type=Path, help="JSON lines file to append to")
    arguments = parser.parse_args()
    use_memory_well()
    for writer in arguments.writers:
        measure(writer, arguments)


if __name__ == "__main__":
    main()
