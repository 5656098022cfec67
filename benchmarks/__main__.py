"""Measure this program beside an equal one in PyTorch, in one run, alternating.

``python -m benchmarks`` prints tables and appends JSON lines, and the same tables, to
``benchmarks/results/``.
"""

import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import jax_programs, memory, rounding_programs, workers
from benchmarks.measure import MATMUL_FLOPS, Timing, alternate
from benchmarks.sizes import BERT_BASE, SMALL, SMOKE, Size
from benchmarks.workers import Contender

RESULTS = Path(__file__).parent / "results"
WIDTH = 160
Part = Literal["train", "reverse", "compile", "memory", "rounding"]
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        quick: tiny networks, to see that everything runs; the numbers mean nothing.
        sizes: which networks.
        parts: which tables.
        out: JSON-lines file to append to; empty means one per day under benchmarks/results.
    """

    quick: bool = False
    sizes: tuple[Literal["small", "bert-base"], ...] = ("small", "bert-base")
    parts: tuple[Part, ...] = ("train", "reverse", "compile", "memory", "rounding")
    out: str = ""


def main(options: Options) -> None:
    """Run the parts that were asked for."""
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("benchmarks need PyTorch: pip install 'diffusion-jax[bench]'")
    sizes = [SMOKE] if options.quick else [s for s in (SMALL, BERT_BASE) if s.name in options.sizes]
    machine = describe_machine()
    path = Path(options.out) if options.out else RESULTS / f"{datetime.date.today()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        rows = list(measure(part, sizes, options.quick))
        table = as_table(part, rows)
        Console(width=WIDTH).print(table)
        with path.with_suffix(".txt").open("a") as file:
            Console(width=WIDTH, file=file).print(table)
        with path.open("a") as file:
            for row in rows:
                file.write(json.dumps({"part": part, **row, **machine}) + "\n")


def measure(part: Part, sizes: list[Size], quick: bool) -> Iterator[Row]:
    """Yield the rows of one table."""
    if part == "rounding":
        yield from measure_rounding(quick)
        return
    parts = {
        "train": measure_train,
        "reverse": measure_reverse,
        "compile": measure_compile,
        "memory": measure_memory,
    }
    for size in sizes:
        yield from parts[part](size)


CONTENDERS = {
    "jax": ("jax", True),
    "torch": ("torch", False),
    # PyTorch with the allocator as our command line sets it.
    "torch, memory kept": ("torch", True),
}


def measure_train(size: Size) -> Iterator[Row]:
    """Time training steps (dropout 0.1, AdamW, one moving average) and the matrix-product peak."""
    contenders = {name: Contender(*who, part="train") for name, who in CONTENDERS.items()}
    peak = Contender("peak", True, part="train")
    timings = workers.measure({**contenders, "peak": peak}, size)
    peak_rate = MATMUL_FLOPS / timings["peak"].wall_s
    for name in contenders:
        timing = timings[name]
        yield {
            **_timing_row(size, name, timing, timings["torch"]),
            "tokens_per_s": size.tokens / timing.wall_s,
            "share_of_peak": jax_programs.train_flops(size) / timing.wall_s / peak_rate,
            "peak_gflop_per_s": peak_rate / 1e9,
        }


def measure_reverse(size: Size) -> Iterator[Row]:
    """Time ancestral steps with the clamp, a short chain at a time."""
    contenders = {name: Contender(*who, part="reverse") for name, who in CONTENDERS.items()}
    timings = workers.measure(contenders, size)
    for name in contenders:
        timing = timings[name]
        yield {
            **_timing_row(size, name, timing, timings["torch"]),
            "tokens_per_s": size.tokens * workers.CHAIN_STEPS / timing.wall_s,
        }


def measure_compile(size: Size) -> Iterator[Row]:
    """Time tracing and compilation of the training step at 4 and at 24 layers."""
    seconds = {}
    for _ in range(2):
        for layers in (4, 24):
            deep = dataclasses.replace(size, spec=dataclasses.replace(size.spec, num_layers=layers))
            jax.clear_caches()
            start = time.process_time()
            jax_programs.lower_train_step(deep).compile()
            taken = time.process_time() - start
            seconds[layers] = min(taken, seconds.get(layers, taken))
    for layers, taken in seconds.items():
        yield {
            "size": size.name,
            "layers": layers,
            "compile_cpu_s": taken,
            "times_4_layers": taken / seconds[4],
        }


def measure_memory(size: Size) -> Iterator[Row]:
    """Report what the compiled step plans for, and what processes that train really held."""
    plan = jax_programs.lower_train_step(size).compile().memory_analysis()
    megabyte = 2**20
    yield {
        "size": size.name,
        "framework": "jax",
        "state_mb": plan.argument_size_in_bytes / megabyte,
        "temporary_mb": plan.temp_size_in_bytes / megabyte,
        "peak_rss_mb": memory.peak_rss_mb("jax", size),
    }
    yield {
        "size": size.name,
        "framework": "torch",
        "peak_rss_mb": memory.peak_rss_mb("torch", size),
    }


def measure_rounding(quick: bool) -> Iterator[Row]:
    """Compare blocked and plain rounding: temporary memory by the compiler, and time."""
    shape = rounding_programs.SMOKE if quick else rounding_programs.PUBLISHED
    compiled = rounding_programs.compile_all(shape)
    timings = alternate(rounding_programs.runnable(compiled, shape), repeats=3)
    temporary = {
        name: program.memory_analysis().temp_size_in_bytes / 2**20
        for name, program in compiled.items()
    }
    for name in compiled:
        plain = name.split(",")[0] + ", plain"
        yield {
            "program": name,
            **shape._asdict(),
            "temporary_mb": temporary[name],
            "times_less_memory": temporary[plain] / temporary[name],
            **dataclasses.asdict(timings[name]),
            "times_plain_time": timings[name].wall_s / timings[plain].wall_s,
        }


def _timing_row(size: Size, framework: str, timing: Timing, torch: Timing) -> Row:
    return {
        "size": size.name,
        "framework": framework,
        **dataclasses.asdict(timing),
        "times_torch_speed": torch.wall_s / timing.wall_s,
        "times_torch_speed_cpu": torch.cpu_s / timing.cpu_s,
    }


def describe_machine() -> Row:
    """Return what a number depends on: versions, device, commit, date."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "flax", "torch")},
        "device": jax.devices()[0].device_kind,
        "cpus": os.cpu_count(),
    }


def as_table(part: str, rows: list[Row]) -> Table:
    """Return the rows as a table for a terminal."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns, title=part)
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) and value < 1000 else _whole(value)


def _whole(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
