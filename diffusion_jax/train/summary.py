"""What a run took, once it is over: time by part, speed, and how well the machine was used."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from diffusion_jax.train.stopwatch import PARTS

_NAMES = {"input": "waiting for data", "compute": "steps", "hooks": "validation and samples"}


def run_summary(
    seconds: Mapping[str, float],
    *,
    steps: int,
    tokens: int,
    flops: float | None = None,
    peak_flops_per_second: float | None = None,
) -> dict[str, Any]:
    """Return the record of a run: one JSON object.

    Args:
        seconds: as from ``Stopwatch.seconds``.
        steps: updates that this process made.
        tokens: positions that they went over.
        flops: operations of their matrix products, what is computed again included, where known.
        peak_flops_per_second: measured rate of such products on all devices together, where known.

    Returns:
        ``seconds`` by part; ``tokens_per_second`` and ``flops_per_second`` over the time of steps,
        input and metrics, as compilation, checkpoints and validation are not what training costs;
        ``utilisation``, the share of the peak, or None where it is unknown.
    """
    training = seconds["input"] + seconds["compute"] + seconds["metrics"] + seconds["other"]
    speed = flops / training if flops is not None and training > 0 else None
    peak = peak_flops_per_second
    return {
        "steps": steps,
        "tokens": tokens,
        "seconds": {name: round(value, 6) for name, value in seconds.items()},
        "tokens_per_second": tokens / training if training > 0 else None,
        "flops_per_second": speed,
        "utilisation": speed / peak if speed is not None and peak is not None else None,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
    }


def show_summary(summary: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Say in a few lines what ``run_summary`` holds."""
    seconds = summary["seconds"]
    total = seconds["total"] or 1.0
    shown = [(_NAMES.get(name, name), seconds[name]) for name in (*PARTS, "other")]
    parts = ", ".join(f"{name} {value:.1f} s ({value / total:.1%})" for name, value in shown)
    say(f"{summary['steps']} steps in {total:.1f} s: {parts}")
    speed = f"{summary['tokens_per_second']:,.0f} tokens/s"
    if summary["flops_per_second"] is not None:
        speed += f", {summary['flops_per_second'] / 1e9:,.1f} GFLOP/s in matrix products"
    if summary["utilisation"] is not None:
        speed += f", {summary['utilisation']:.1%} of what was measured for large products"
    say(speed)
