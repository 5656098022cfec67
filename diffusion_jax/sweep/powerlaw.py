"""Power laws fitted to the results of runs, with confidence intervals from the bootstrap.

y = floor + scale * x ** -exponent (Hestness et al. 2017, arXiv:1712.00409). Where the floor is
known, e.g. the entropy of the source, it is subtracted beforehand and the fit is a line in
logarithms.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from diffusion_jax.errors import UserError

Interval = tuple[float, float]


class PowerLaw(NamedTuple):
    """``y = floor + scale * x ** -exponent``, with the bounds between which 95% of refits lie.

    Attributes:
        exponent: how fast y falls.
        exponent_interval: its 95% interval.
        scale: value above the floor at x = 1.
        floor: what y falls to; 0 where it was given as known.
        floor_interval: its 95% interval; (0, 0) where it was given as known.
        residual: root mean square of the residuals in log(y - floor).
        num_points: how many runs were fitted.
    """

    exponent: float
    exponent_interval: Interval
    scale: float
    floor: float
    floor_interval: Interval
    residual: float
    num_points: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the fitted y at ``x``."""
        return self.floor + self.scale * np.asarray(x, np.float64) ** -self.exponent


class Optimum(NamedTuple):
    """The best size for one budget: the lowest point of a parabola in log(size).

    Attributes:
        budget: what the runs have in common.
        size: where the parabola is lowest.
        value: how low.
        inside: whether that lies between the sizes that were run.
    """

    budget: float
    size: float
    value: float
    inside: bool


def fit_power_law(
    x: Sequence[float],
    y: Sequence[float],
    *,
    fit_floor: bool = False,
    refits: int = 1000,
    seed: int = 0,
) -> PowerLaw:
    """Fit a power law by least squares in log(y - floor).

    Args:
        x: positive, e.g. FLOPs or parameters.
        y: above the floor, e.g. a bound above the entropy of the source.
        fit_floor: find the floor too, in [0, min(y)); needs at least four points.
        refits: bootstrap samples of the points, drawn with replacement.
        seed: of the bootstrap.

    Raises:
        UserError: too few points, or values that are not positive.
    """
    points = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)])
    needed = 4 if fit_floor else 3
    if points.shape[1] < needed or len(set(points[0])) < needed - 1:
        raise UserError(
            f"a power law {'with a floor ' if fit_floor else ''}needs at least {needed} runs of "
            f"different size; there are {points.shape[1]}"
        )
    if not (np.isfinite(points).all() and (points > 0).all()):
        raise UserError("a power law needs finite, positive values; look at the results")

    def fit(chosen: np.ndarray) -> np.ndarray:
        xs, ys = chosen
        floor = _best_floor(xs, ys) if fit_floor else 0.0
        return np.append(_line(xs, ys, floor), floor)

    slope, intercept, floor = fit(points)
    logs = np.log(points[1] - floor) - (intercept + slope * np.log(points[0]))
    low, high = _bootstrap(points, fit, refits, seed, needed)
    return PowerLaw(
        exponent=-float(slope),
        exponent_interval=(-float(high[0]), -float(low[0])),
        scale=float(np.exp(intercept)),
        floor=float(floor),
        floor_interval=(float(low[2]), float(high[2])),
        residual=float(np.sqrt(np.mean(logs**2))),
        num_points=points.shape[1],
    )


def optimal_sizes(
    budget: Sequence[float], size: Sequence[float], y: Sequence[float]
) -> list[Optimum]:
    """Find the best size for every budget (Hoffmann et al. 2022, arXiv:2203.15556, approach 2).

    Args:
        budget: of every run; runs of one budget form a group.
        size: of every run.
        y: what is to be low, e.g. the validation loss.

    Returns:
        One optimum per budget with at least three sizes, budgets rising.
    """
    groups: dict[float, list[tuple[float, float]]] = {}
    for c, n, value in zip(budget, size, y):
        groups.setdefault(c, []).append((np.log(n), value))
    found = []
    for c in sorted(groups):
        logs, values = np.asarray(sorted(groups[c])).T
        if len(set(logs)) < 3:
            continue
        a, b, constant = np.polyfit(logs, values, 2)
        # A parabola that opens downwards has no lowest point: the best end stands in for it.
        best = -b / (2 * a) if a > 0 else logs[int(np.argmin(values))]
        inside = bool(a > 0 and logs[0] <= best <= logs[-1])
        best = float(np.clip(best, logs[0], logs[-1]))
        found.append(
            Optimum(c, float(np.exp(best)), float(a * best**2 + b * best + constant), inside)
        )
    return found


def _line(x: np.ndarray, y: np.ndarray, floor: float) -> np.ndarray:
    """Return slope and intercept of log(y - floor) over log(x)."""
    return np.polyfit(np.log(x), np.log(y - floor), 1)


def _best_floor(x: np.ndarray, y: np.ndarray) -> float:
    """Return the floor with the least squared residuals, by a grid that is refined twice.

    Residuals are those of y itself relative to y: in log(y - floor) they grow without bound where
    the floor comes close to the lowest point.
    """
    low, high = 0.0, float(y.min()) * (1 - 1e-6)
    for _ in range(3):
        grid = np.linspace(low, high, 65)
        costs = []
        for floor in grid:
            slope, intercept = _line(x, y, floor)
            fitted = floor + np.exp(intercept + slope * np.log(x))
            costs.append(np.sum((fitted / y - 1) ** 2))
        best = int(np.argmin(costs))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 64)]
    return float(grid[best])


def _bootstrap(
    points: np.ndarray,
    fit: Callable[[np.ndarray], np.ndarray],
    refits: int,
    seed: int,
    needed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2.5% and 97.5% quantiles of the parameters over samples of the points."""
    random, found = np.random.default_rng(seed), []
    while len(found) < refits:
        chosen = points[:, random.integers(points.shape[1], size=points.shape[1])]
        if len(set(chosen[0])) >= needed - 1:
            found.append(fit(chosen))
    return tuple(np.quantile(np.stack(found), (0.025, 0.975), axis=0))  # type: ignore[return-value]
