"""Quality against network calls, for every sampler, with and without the clamp.

Command: python -m benchmarks.steps RUN [--calls 1 2 5 ...] [--rows 100] [--samplers NAME ...]

RUN is a run directory of ``train`` or ``quickstart``. The sampler writes for the first rows of the
run's validation set, with the same noise at every point. Texts of the embedded grammar are judged
by parsing: the share that says exactly what the reference says, or that is in the language where
there is no source. Other pairs are judged by corpus BLEU against one reference.

Every point is appended to a file of JSON lines when it is done; a point that the file has for this
run is not measured again, so an interrupted measurement goes on. Chains of more than 50 calls use
--long-rows rows, and of more than 200 calls only the samplers of --longest. At the end all points
of the file are drawn beside it (extra ``bench``).
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import diffusion_jax
from diffusion_jax.chain import example_keys
from diffusion_jax.config import ExperimentConfig, SampleConfig
from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.overlap import corpus_bleu
from diffusion_jax.experiment import open_validation
from diffusion_jax.generate import Generator
from diffusion_jax.text.grammar import load_grammar
from diffusion_jax.text.packing import Row, unpack_target
from diffusion_jax.text.targets import RowShape
from diffusion_jax.workdir import Workdir

# What a run's configuration says of these shall not differ between the lines.
PLAIN = {"spacing": "trailing", "time_shift": 0.0, "faithful_v2": False}
SAMPLERS: dict[str, dict[str, Any]] = {
    "ddpm": {"sampler": "ddpm", "noise_scale": 1.0},
    "ddpm noise 0.7": {"sampler": "ddpm", "noise_scale": 0.7},
    "ddpm noise 0.7 shift 0.05": {"sampler": "ddpm", "noise_scale": 0.7, "time_shift": 0.05},
    "ddpm noise 0.3 shift 0.15": {"sampler": "ddpm", "noise_scale": 0.3, "time_shift": 0.15},
    "ddpm noise 0 shift 0.15": {"sampler": "ddpm", "noise_scale": 0.0, "time_shift": 0.15},
    "ddim": {"sampler": "ddim", "eta": 0.0},
    "ddim eta 1": {"sampler": "ddim", "eta": 1.0},
    "dpm++ 2M": {"sampler": "dpm++", "order": 2},
    "dpm++ 3M": {"sampler": "dpm++", "order": 3},
    "dpm++ 2S": {"sampler": "dpm++", "order": 2, "method": "singlestep"},
    "dpm++ 3S": {"sampler": "dpm++", "order": 3, "method": "singlestep"},
    "ddim quadratic": {"sampler": "ddim", "spacing": "quadratic"},
    "ddim log_snr": {"sampler": "ddim", "spacing": "log_snr"},
    "ddim shift 0.05": {"sampler": "ddim", "time_shift": 0.05},
    "dpm++ 2M shift 0.05": {"sampler": "dpm++", "order": 2, "time_shift": 0.05},
}
STANDARD = (
    *("ddpm", "ddpm noise 0.7 shift 0.05", "ddpm noise 0.3 shift 0.15", "ddpm noise 0 shift 0.15"),
    *("ddim", "dpm++ 2M", "dpm++ 3M", "dpm++ 2S", "dpm++ 2M shift 0.05"),
)
CALLS = (1, 2, 5, 10, 20, 50, 200, 2000)
CLAMPS = ("all", "none")
BATCH_SIZE = 50
MEASURES = ("says_exactly", "in_language", "bleu")


class Trained(NamedTuple):
    """A run, read once for all points."""

    generator: Generator
    input_ids: np.ndarray
    noise_mask: np.ndarray


def read_run(path: str, num_rows: int) -> Trained:
    """Read the averaged parameters and the first validation rows of a run."""
    generator = Generator.from_checkpoint(path)
    store = open_validation(generator.config, generator.tokenizer)
    if store is None:
        raise SystemExit(f"{path} has no validation set; train with --data.validation")
    rows = store.rows(np.arange(min(num_rows, len(store))))
    return Trained(generator, rows["input_ids"], rows["noise_mask"])


def make_judge(config: ExperimentConfig) -> Callable[[list[str], list[str]], dict[str, float]]:
    """Return (texts, references) -> values, the one to draw first."""
    if not config.data.corpus.startswith("grammar:"):
        return lambda texts, references: {"bleu": corpus_bleu(texts, references)}
    grammar = load_grammar(config.data.corpus.removeprefix("grammar:").split("/")[0])

    def judge(texts: list[str], references: list[str]) -> dict[str, float]:
        in_language = float(np.mean([grammar.accepts(text) for text in texts]))
        if config.data.task == "text":
            return {"in_language": in_language}
        parses = [grammar.parse(reference) for reference in references]
        wanted = [parse.best.attributes for parse in parses if parse is not None]
        right = [grammar.says(*pair) for pair in zip(texts, wanted, strict=True)]
        return {
            "says_exactly": float(np.mean(right)),
            "in_language": in_language,
            "bleu": corpus_bleu(texts, references),
        }

    return judge


def measure(trained: Trained, options: dict[str, Any], num_rows: int, seed: int) -> dict[str, Any]:
    """Write texts for the first rows with these sampling options, and judge them."""
    generator = trained.generator.with_sampling(**options)
    config = generator.config
    num_rows = min(num_rows, len(trained.input_ids))
    ids, masks = trained.input_ids[:num_rows], trained.noise_mask[:num_rows]
    keys = example_keys(seed, range(num_rows))

    def write() -> tuple[list[str], float]:
        start = time.process_time()
        if config.data.task == "text":
            texts = generator.sample(num_rows, seed=seed, batch_size=num_rows)
        else:
            packed = [Row(*row) for row in zip(ids, masks)]
            rows = generator.rows_to_write(packed, RowShape(config.data.length, 1, 1, 0))
            bucket = generator.trained_bucket() or None
            texts = generator.write_rows(rows, keys, bucket, BATCH_SIZE)
        return texts, time.process_time() - start

    written, first_s = write()
    # The first call compiled; the second one is the cost, where it does not take too long.
    cost_s = write()[1] if first_s < 10 else None

    def reference(token_ids: np.ndarray, mask: np.ndarray) -> str:
        target = token_ids
        if config.data.task == "pair":
            target = unpack_target(token_ids, mask, generator.tokenizer)
        return generator.tokenizer.decode(target)

    values = make_judge(config)(written, list(map(reference, ids, masks)))
    return {**values, "rows": num_rows, "cpu_s_without_compile": cost_s}


def acts(name: str, calls: int) -> bool:
    """Return whether so few calls let the sampler be another than one of lower order."""
    try:
        SampleConfig(**SAMPLERS[name], steps=calls)
    except UserError:
        return False
    return True


def points(arguments: argparse.Namespace) -> Iterator[tuple[str, str, int, int]]:
    """Yield (sampler, clamp, calls, rows) in the order of their cost."""
    for calls in sorted(arguments.calls):
        for clamp in CLAMPS:
            for name in arguments.samplers:
                if (calls <= 200 or name in arguments.longest) and acts(name, calls):
                    yield name, clamp, calls, arguments.rows if calls <= 50 else arguments.long_rows


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draw points beside the file that holds them: a row of panels per measure."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    measures = [measure for measure in MEASURES if measure in rows[0]]
    size = (11, 3.6 * len(measures) + 0.6)
    figure, grid = pyplot.subplots(
        len(measures), len(CLAMPS), figsize=size, sharex=True, sharey="row", squeeze=False
    )
    for axes, measure in zip(grid, measures):
        for axis, clamp in zip(axes, CLAMPS):
            for name in dict.fromkeys(row["sampler"] for row in rows):
                line = sorted(
                    (row["calls"], row[measure], row["rows"])
                    for row in rows
                    if row["sampler"] == name and row["clamp"] == clamp
                )
                if not line:
                    continue
                calls, values, counts = (np.array(column) for column in zip(*line))
                error = None if measure == "bleu" else np.sqrt(values * (1 - values) / counts)
                axis.errorbar(calls, values, error, marker="o", markersize=3, lw=1, label=name)
            axis.set(xscale="log", title=f"clamp {clamp}", xlabel="network calls")
            axis.grid(alpha=0.3)
        axes[0].set_ylabel(measure.replace("_", " "))
    grid[0][0].legend(fontsize=8)
    run, steps = rows[0]["run"], rows[0]["train_steps"]
    bars = "; bars are one standard error" * (measures != ["bleu"])
    figure.suptitle(f"{run}, {steps} training steps{bars}")
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"), dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is missing, print it, and draw everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=STANDARD)
    parser.add_argument("--longest", nargs="*", choices=SAMPLERS, default=["ddpm", "ddim"])
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--long-rows", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="", help="default: benchmarks/results/steps-NAME.jsonl")
    arguments = parser.parse_args(argv)

    trained = read_run(arguments.run, max(arguments.rows, arguments.long_rows))
    train_steps = Workdir(arguments.run).checkpoints().steps()[-1]
    run = trained.generator.config.name
    default = Path(__file__).parent / "results" / f"steps-{run}.jsonl"
    path = Path(arguments.output or default)
    identity = ("run", "sampler", "clamp", "calls", "rows", "seed", "train_steps")
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {tuple(row[name] for name in identity) for row in known}
    for name, clamp, calls, num_rows in points(arguments):
        row = {
            "benchmark": "steps",
            "run": run,
            "train_steps": train_steps,
            "sampler": name,
            "clamp": clamp,
            "calls": calls,
            "rows": min(num_rows, len(trained.input_ids)),
            "seed": arguments.seed,
        }
        if calls > trained.generator.schedule.num_timesteps or (
            tuple(row[field] for field in identity) in done
        ):
            continue
        options = PLAIN | SAMPLERS[name] | {"clamp": clamp, "steps": calls}
        row |= measure(trained, options, num_rows, arguments.seed)
        row |= {
            "command": "python -m benchmarks.steps " + " ".join(sys.argv[1:]),
            "machine": f"{platform.machine()} {jax.devices()[0].device_kind}, shared",
            "jax": jax.__version__,
            "version": diffusion_jax.__version__,
        }
        values = "  ".join(f"{key} {row[key]:.3f}" for key in MEASURES if key in row)
        print(f"{calls:5d} calls  {name:20s} clamp {clamp:4s}  {values}", flush=True)
        known.append(row)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    of_run = {"run": run, "train_steps": train_steps, "seed": arguments.seed}
    drawn = [row for row in known if of_run.items() <= row.items()]
    if drawn:
        draw(path, drawn)


if __name__ == "__main__":
    main()
