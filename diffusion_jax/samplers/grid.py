"""Step grids: which (t, t_prev) pairs a reverse chain visits, with the numbers that a step needs.

A grid is a ``StepInfo`` whose fields are NumPy arrays [S], formed in float64 and stored in float32.
What the network is told is a field of its own, so a chain that tells it another time than the
state's is ``grid._replace(time=...)``.
"""

from collections.abc import Sequence

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.schedules import NoiseSchedule
from diffusion_jax.types import StepInfo

SPACINGS = ("trailing", "leading", "linspace")


def step_grid(
    schedule: NoiseSchedule,
    num_steps: int | None = None,
    *,
    spacing: str | Sequence[int] = "trailing",
) -> StepInfo:
    """Build the grid of a chain from noise to clean data (the last ``t_prev`` is -1).

    Args:
        schedule: the T training timesteps.
        num_steps: S, from 1 to T; None means all T.
        spacing: ``"trailing"`` starts at T-1 with equal strides (Lin et al. 2024, table 2),
            ``"leading"`` ends at 0 with equal strides, ``"linspace"`` has both ends; or the
            timesteps themselves, distinct, in any order.

    Returns:
        A StepInfo of arrays [S], most noisy step first.

    Raises:
        UserError: too many or too few steps, an unknown spacing, timesteps repeated or out of
            range.
    """
    total = len(schedule.alphas_cumprod)
    if not isinstance(spacing, str):
        timesteps = _explicit_timesteps(spacing, num_steps, total)
    else:
        timesteps = _spaced_timesteps(spacing, total if num_steps is None else num_steps, total)
    return _grid(schedule, timesteps, np.append(timesteps[1:], -1))


def legacy_gap_grid(schedule: NoiseSchedule, gap: int) -> StepInfo:
    """Build DiffuSeq's strided DDIM grid: every ``gap``-th index, but steps of one index.

    The published loop feeds the labels T-1, T-1-gap, ... while every update goes to the *adjacent*
    index, so the state is noisier than its label and the result is not clean. It is here to
    reproduce published numbers; ``step_grid`` is the correct strided grid.
    """
    total = len(schedule.alphas_cumprod)
    if not 1 <= gap <= total:
        raise UserError(f"gap={gap} is not allowed; use 1 to {total}, the schedule's timesteps")
    timesteps = np.arange(total - 1, -1, -gap)
    return _grid(schedule, timesteps, timesteps - 1)


def inversion_grid(schedule: NoiseSchedule, num_steps: int) -> StepInfo:
    """Build the ascending grid 0 -> 1 -> ... -> num_steps that encodes data (DDIM inversion).

    Run it with ``ddim(eta=0)``: the deterministic update (Song et al. 2021, eq. 14) is the same
    formula in either direction.
    """
    total = len(schedule.alphas_cumprod)
    if not 1 <= num_steps < total:
        raise UserError(f"num_steps={num_steps} is not allowed; use 1 to {total - 1}")
    timesteps = np.arange(num_steps)
    return _grid(schedule, timesteps, timesteps + 1)


def _explicit_timesteps(spacing: Sequence[int], num_steps: int | None, total: int) -> np.ndarray:
    timesteps = np.asarray(spacing)
    if timesteps.ndim != 1 or timesteps.size == 0 or timesteps.dtype.kind not in "iu":
        raise UserError(f"timesteps must be a non-empty list of integers, not {spacing!r}")
    if num_steps is not None and num_steps != timesteps.size:
        raise UserError(
            f"num_steps={num_steps} but {timesteps.size} timesteps were given; leave num_steps out"
        )
    if len(set(timesteps.tolist())) < timesteps.size:
        raise UserError("timesteps are repeated; give each at most once")
    if timesteps.min() < 0 or timesteps.max() >= total:
        raise UserError(
            f"timesteps go from {timesteps.min()} to {timesteps.max()}; "
            f"the schedule has 0 to {total - 1}"
        )
    return np.sort(timesteps)[::-1]


def _spaced_timesteps(spacing: str, num_steps: int, total: int) -> np.ndarray:
    if spacing not in SPACINGS:
        raise UserError(f"unknown spacing {spacing!r}; use one of {', '.join(SPACINGS)}")
    if not 1 <= num_steps <= total:
        raise UserError(
            f"num_steps={num_steps} is not allowed; the schedule has {total} timesteps, "
            f"use 1 to {total}"
        )
    steps = np.arange(num_steps)
    if spacing == "trailing":
        return np.round(total - steps * total / num_steps).astype(int) - 1
    if spacing == "leading":
        return (steps * total // num_steps)[::-1]
    return np.round(np.linspace(total - 1, 0, num_steps)).astype(int)


def _grid(schedule: NoiseSchedule, t: np.ndarray, t_prev: np.ndarray) -> StepInfo:
    if np.ndim(schedule.alphas_cumprod) != 1:
        raise UserError("step grids need one schedule for all positions, tables of shape [T]")
    # Index -1 then reads the appended 1: clean data has no noise.
    alphas_cumprod = np.append(np.asarray(schedule.alphas_cumprod, np.float64), 1.0)
    alpha_bar, alpha_bar_prev = alphas_cumprod[t], alphas_cumprod[t_prev]
    times = np.asarray(schedule.model_timesteps, np.float32)
    return StepInfo(
        index=np.arange(len(t), dtype=np.int32),
        t=t.astype(np.int32),
        t_prev=t_prev.astype(np.int32),
        alpha_bar=alpha_bar.astype(np.float32),
        alpha_bar_prev=alpha_bar_prev.astype(np.float32),
        one_minus_alpha_bar=(1.0 - alpha_bar).astype(np.float32),
        one_minus_alpha_bar_prev=(1.0 - alpha_bar_prev).astype(np.float32),
        beta=(1.0 - alpha_bar / alpha_bar_prev).astype(np.float32),
        time=times[t],
        time_prev=times[np.maximum(t_prev, 0)],
    )
