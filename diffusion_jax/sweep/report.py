"""From collected results to fitted power laws, as numbers and as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.sweep.collect import Record, column
from diffusion_jax.sweep.powerlaw import PowerLaw, fit_power_law, optimal_sizes

DEFAULT_BUDGET = "budget"
"""Field of runs that cost the same; a sweep without budgets has none."""


def fit_records(
    records: Sequence[Record],
    *,
    x: str,
    y: str,
    budget: str = "",
    size: str = "network_parameters",
    fit_floor: bool = False,
    refits: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit how y falls with x, and where runs share budgets, how the best size grows with them.

    Args:
        records: finished runs.
        x: field that y falls with. Only the best run of every budget counts where there are any.
        y: field, or difference of fields, see ``collect.column``.
        budget: field that runs of equal cost share; "" for none.
        size: field that differs among runs of one budget.
        fit_floor: see ``fit_power_law``.
        refits: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        A JSON record: the points, the law of y over x, and with budgets the optima and their law.

    Raises:
        UserError: too few runs, or a field that is missing.
    """
    if not records:
        raise UserError("there are no finished runs among the results")
    if refits < 1 or seed < 0:
        raise UserError(f"refits={refits} and seed={seed} must be at least 1 and 0")
    lacking = [record.get("job") for record in records if budget and budget not in record]
    if lacking and (budget != DEFAULT_BUDGET or len(lacking) < len(records)):
        raise UserError(
            f"{len(lacking)} of {len(records)} runs have no field {budget!r} (first: "
            f"{lacking[0]}), and runs of one budget are compared; name the field that they share, "
            'or none (--budget "")'
        )
    xs, ys = column(records, x), column(records, y)
    report: dict[str, Any] = {
        "x": x,
        "y": y,
        "points": [{"job": r.get("job"), "x": a, "y": b} for r, a, b in zip(records, xs, ys)],
    }
    options: dict[str, Any] = {"refits": refits, "seed": seed}
    if budget and not lacking:
        budgets, sizes = column(records, budget), column(records, size)
        for point, c, n in zip(report["points"], budgets, sizes):
            point |= {"budget": c, "size": n}
        optima = optimal_sizes(budgets, sizes, ys)
        report["optima"] = [optimum._asdict() for optimum in optima]
        best = [min((b, a) for b, a, c in zip(ys, xs, budgets) if c == each) for each in
                sorted(set(budgets))]  # fmt: skip
        ys, xs = (list(part) for part in zip(*best))
        inside = [optimum for optimum in optima if optimum.inside]
        if len(inside) >= 3:
            law = fit_power_law([o.budget for o in inside], [o.size for o in inside], **options)
            # The best size grows: its exponent is minus that of a falling law.
            low, high = law.exponent_interval
            report["best_size"] = {
                "exponent": -law.exponent,
                "exponent_interval": (-high, -low),
                "scale": law.scale,
            }
    law = fit_power_law(xs, ys, fit_floor=fit_floor, **options)
    report["law"] = law._asdict()
    return report


def draw(report: dict[str, Any], path: str | Path) -> None:
    """Draw points and fitted law, both axes logarithmic.

    Raises:
        UserError: matplotlib is missing, or it cannot write such a file.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            'a plot needs matplotlib; install it with pip install "diffusion-jax[bench]"'
        ) from error
    law = PowerLaw(**report["law"])
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    groups = sorted({point.get("size", 0) for point in report["points"]})
    for size in groups:
        chosen = [p for p in report["points"] if p.get("size", 0) == size]
        label = f"{size:,.0f} parameters" if size else None
        axes.plot([p["x"] for p in chosen], [p["y"] for p in chosen], "o", label=label)
    sizes = [point["x"] for point in report["points"]]
    xs = np.geomspace(min(sizes), max(sizes), 100)
    low, high = law.exponent_interval
    axes.plot(xs, law(xs), "k-", lw=1,
              label=f"exponent {law.exponent:.3f} [{low:.3f}, {high:.3f}]")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel=report["x"], ylabel=report["y"])
    axes.legend(fontsize="small")
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise UserError(f"cannot draw into {path}: {error}; use .png, .svg or .pdf") from error
