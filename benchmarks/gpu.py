"""Training and sampling on one accelerator, beside the same network in PyTorch.

Command: python -m benchmarks.gpu [--parts train sample] [--steps 200] [--output FILE]

BERT-base, vocabulary 30522, rows of 128, bfloat16 products. Training doubles the batch until memory
ends, for this program and for PyTorch, and holds the work of the largest against the measured
bfloat16 matrix peak. Sampling writes whole texts (ancestral steps, clamped): one compiled scan
beside PyTorch's loop over steps. Each batch is timed in a process of its own, which has the device
for itself; --quick runs a tiny network, on any device, to see that everything works.
"""

import argparse
import dataclasses
import multiprocessing
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.sizes import BERT_BASE, SMOKE, Size

FRAMEWORKS = ("jax", "torch")
FIRST_BATCH, LARGEST_BATCH = 64, 8192
TIMED = 10
WARM_UP = 3
# A compilation and some steps; what takes longer has failed.
PATIENCE_S = 900


def sized(quick: bool, batch_size: int) -> Size:
    """Return the network with a batch."""
    size = SMOKE if quick else BERT_BASE
    spec = dataclasses.replace(size.spec, dtype="bfloat16")
    return dataclasses.replace(size, spec=spec, batch_size=batch_size)


def jax_program(part: str, size: Size, steps: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Return what is timed, which waits for its result, and what else is known of it."""
    import jax

    from benchmarks import jax_programs
    from diffusion_jax.scale.peak import matmul_peak

    if part == "train":
        # Before memory is full.
        peak = matmul_peak("bfloat16")
        run, compiled = jax_programs.train_program(size)
        plan = compiled.memory_analysis()
        known = {
            "peak_flop_per_s": peak,
            "flops": jax_programs.train_flops(size),
            "planned_bytes": plan.argument_size_in_bytes + plan.temp_size_in_bytes,
        }
    else:
        run, known = jax_programs.reverse_program(size, steps), {}
    known["device"] = jax.devices()[0].device_kind
    return lambda: jax.block_until_ready(run()), known


def torch_program(part: str, size: Size, steps: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Return the same in PyTorch, on its GPU where it has one."""
    import torch

    from benchmarks import jax_programs, torch_model

    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    known = {"device": torch.cuda.get_device_name() if on_gpu else device}
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    torch.set_float32_matmul_precision("high")
    if part == "train":
        step = torch_model.make_train_step(
            size.spec,
            jax_programs.NUM_TIMESTEPS,
            jax_programs.LEARNING_RATE,
            jax_programs.EMA_RATE,
            device,
        )
        ids = torch.from_numpy(jax_programs.random_ids(size)).to(device)

        def run() -> None:
            step(ids)
            wait()

        return run, known
    reverse = torch_model.make_reverse_step(size.spec, jax_programs.NUM_TIMESTEPS, device)
    stride = jax_programs.NUM_TIMESTEPS // steps

    def chain() -> None:
        x = torch.randn(size.batch_size, size.length, size.spec.embed_dim, device=device)
        for t in range(steps * stride - 1, 0, -stride):
            x = reverse(x, t)
        wait()

    return chain, known


def serve(answers: Any, framework: str, part: str, size: Size, steps: int) -> None:
    """Time one program in this process and put a row of figures, or why there are none."""
    try:
        make = jax_program if framework == "jax" else torch_program
        run, known = make(part, size, steps)
        repeats = TIMED if part == "train" else 1
        for _ in range(WARM_UP if part == "train" else 1):
            run()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        answers.put({**known, "seconds": (time.perf_counter() - start) / repeats})
    except Exception as error:
        # Both name what they ran out of; anything else is shown too.
        answers.put({"failed": f"{type(error).__name__}: {error}"[:300]})


def timed(framework: str, part: str, size: Size, steps: int) -> dict[str, Any]:
    """Run one program in a process of its own."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=serve, args=(answers, framework, part, size, steps))
    process.start()
    try:
        # A process that was killed for its memory leaves nothing.
        return answers.get(timeout=PATIENCE_S)
    except queue.Empty:
        return {"failed": "no answer"}
    finally:
        process.join(timeout=10)
        process.kill()


def measure(part: str, framework: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Double the batch until it fails; return one row for each."""
    rows = []
    batch_size = SMOKE.batch_size if options.quick else FIRST_BATCH
    largest = 2 * batch_size if options.quick else LARGEST_BATCH
    while batch_size <= largest:
        size = sized(options.quick, batch_size)
        found = timed(framework, part, size, options.steps)
        row = {"part": part, "framework": framework, "batch_size": batch_size, **found}
        if "seconds" in found:
            seconds = found["seconds"]
            row["tokens_per_s"] = size.tokens / seconds
            if part == "train" and framework == "jax":
                row["share_of_peak"] = found["flops"] / seconds / found["peak_flop_per_s"]
            if part == "sample":
                row |= {"steps": options.steps, "sentences_per_s": batch_size / seconds}
        rows.append(row)
        if "failed" in found:
            break
        batch_size *= 2
    return rows


def summary(part: str, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the best rate of each framework and their ratio."""
    name = "tokens_per_s" if part == "train" else "sentences_per_s"
    best = {
        who: max((r for r in found if name in r), key=lambda r: r[name], default=None)
        for who, found in rows.items()
    }
    row: dict[str, Any] = {"part": part, "summary": name}
    for who, found in best.items():
        if found is not None:
            row |= {f"{who}_rate": found[name], f"{who}_batch_size": found["batch_size"]}
    if all(best.values()):
        row["times_torch"] = row["jax_rate"] / row["torch_rate"]
    if part == "train" and best["jax"] is not None:
        row["share_of_peak"] = best["jax"]["share_of_peak"]
    return row


def main() -> None:
    """Measure the parts that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--parts", nargs="+", choices=("train", "sample"), default=("train", "sample")
    )
    parser.add_argument("--steps", type=int, default=200, help="of a chain")
    parser.add_argument("--quick", action="store_true", help="a tiny network on any device")
    parser.add_argument("--output", type=Path, help="JSON lines file to append to")
    options = parser.parse_args()
    from benchmarks.records import record

    for part in options.parts:
        rows = {framework: measure(part, framework, options) for framework in FRAMEWORKS}
        for found in rows.values():
            for row in found:
                record(row, options.output)
        record(summary(part, rows), options.output)


if __name__ == "__main__":
    main()
