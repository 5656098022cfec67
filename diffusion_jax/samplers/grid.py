"""Step grids: which (t, t_prev) pairs a reverse chain visits, with the numbers that a step needs.

A grid is a ``StepInfo`` whose fields are NumPy arrays [S], formed in float64 and stored in float32.
Its nodes may lie between the schedule's indices: there log(alpha_bar) and the network's label are
interpolated linearly in the index, as DPM-Solver does for discrete schedules (Lu et al. 2022,
arXiv:2206.00927). Index -1 is clean data.

What the network is told is a field of its own, so a chain can tell it another time than the
state's, see ``shift_time``.
"""

from collections.abc import Sequence

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.schedules import NoiseSchedule
from diffusion_jax.types import StepInfo

SPACINGS = ("trailing", "leading", "linspace", "quadratic", "log_snr")


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
            ``"leading"`` ends at 0 with equal strides, ``"linspace"`` has both ends.
            ``"quadratic"`` starts at T-1 with strides that shrink linearly towards clean data, and
            ``"log_snr"`` is uniform in the log of the signal-to-noise ratio; their nodes lie
            between the indices. Or the timesteps themselves, distinct, in any order.

    Returns:
        A StepInfo of arrays [S], most noisy step first. Its ``history`` suits multistep solvers:
        all earlier estimates, and fewer towards the end, where the order falls to 1 again.

    Raises:
        UserError: too many or too few steps, an unknown spacing, timesteps repeated or out of
            range.
    """
    total = len(schedule.alphas_cumprod)
    if isinstance(spacing, str):
        nodes = _spaced_nodes(schedule, spacing, total if num_steps is None else num_steps)
    else:
        nodes = np.append(_explicit_timesteps(spacing, num_steps, total), -1.0)
    return _grid(schedule, nodes[:-1], nodes[1:])


def singlestep_grid(
    schedule: NoiseSchedule,
    num_steps: int,
    *,
    order: int,
    spacing: str = "trailing",
) -> StepInfo:
    """Build the grid of a singlestep solver: blocks of ``order`` network calls.

    The nodes of ``step_grid`` at which blocks meet are kept; inside a block the nodes are uniform
    in the log of the signal-to-noise ratio (DPM-Solver's r1 = 1/2, or 1/3 and 2/3). The last call,
    to clean data, is a block of its own, and one block before it is shorter where the numbers ask
    for it. ``history`` counts the calls since the block began.

    Args:
        schedule: the T training timesteps.
        num_steps: S, the number of network calls, from 1 to T.
        order: 1, 2 or 3.
        spacing: of the block ends, see ``step_grid``.

    Raises:
        UserError: an argument out of range.
    """
    check_order(order)
    nodes = _spaced_nodes(schedule, spacing, num_steps)
    full, rest = divmod(num_steps - 1, order)
    sizes = [order] * full + [rest] * (rest > 0) + [1]
    ends = np.concatenate([[0], np.cumsum(sizes)])
    starts = []
    for size, begin, end in zip(sizes, nodes[ends[:-1]], nodes[ends[1:]]):
        if size == 1:
            starts.append([begin])
            continue
        first, last = _half_log_snr(schedule, np.array([begin, end]))
        half_log_snr = np.linspace(first, last, size + 1)
        inner = _index_of_half_log_snr(schedule, half_log_snr[1:-1])
        starts.append([begin, *inner])
    t = np.concatenate(starts)
    grid = _grid(schedule, t, np.append(t[1:], -1.0))
    history = np.concatenate([np.arange(size) for size in sizes])
    return grid._replace(history=history.astype(np.int32))


def shift_time(grid: StepInfo, schedule: NoiseSchedule, shift: float) -> StepInfo:
    """Tell the network a larger time than the state's, at every step.

    With few steps the estimates are better than the noise level says, or the network leans too much
    on the state and too little on the condition. Bit Diffusion (Chen et al. 2022, arXiv:2208.04202:
    asymmetric time intervals; its ``td`` steps of S are ``td / S`` here) and DINOISER (Ye et al.
    2023, arXiv:2302.10025: CeDi) report large gains from it at few steps.

    Args:
        grid: any grid.
        schedule: the schedule of the grid.
        shift: share of the schedule to add, in [0, 1); the sum stops at the last timestep's label.

    Raises:
        UserError: a shift out of range.
    """
    if not 0.0 <= shift < 1.0:
        raise UserError(f"time_shift={shift} is not allowed; use a share of the schedule in [0, 1)")
    labels = np.asarray(schedule.model_timesteps, np.float64)
    index = np.interp(grid.time, labels, np.arange(len(labels)))
    shifted = np.interp(index + shift * len(labels), np.arange(len(labels)), labels)
    return grid._replace(time=shifted.astype(np.float32))


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


def diffuseq_v2_grid(
    schedule: NoiseSchedule, num_steps: int, *, spacing: str = "trailing"
) -> StepInfo:
    """Build the grid of DiffuSeq-v2's solver, to reproduce published numbers.

    It ends at index 0, not at clean data, lowers the order at the end for fewer than ten steps
    only, and tells the network a label that is one timestep too high (up to 1000, which no training
    saw).

    Args:
        schedule: the T training timesteps.
        num_steps: S, from 1 to T.
        spacing: ``"trailing"`` (uniform in time), ``"quadratic"`` or ``"log_snr"``.
    """
    if spacing not in ("trailing", "quadratic", "log_snr"):
        raise UserError(f"spacing {spacing!r} is not DiffuSeq-v2's; use trailing or log_snr")
    total = len(schedule.alphas_cumprod)
    _check_num_steps(num_steps, total)
    if spacing == "trailing":
        nodes = np.linspace(total - 1, 0, num_steps + 1)
    else:
        nodes = _fractional_nodes(schedule, spacing, num_steps)
    grid = _grid(schedule, nodes[:-1], nodes[1:])
    label_step = np.float32(1000.0 / total)
    if num_steps >= 10:
        grid = grid._replace(history=grid.index)
    return grid._replace(time=grid.time + label_step, time_prev=grid.time_prev + label_step)


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


def check_order(order: int) -> None:
    """Raise UserError unless a solver of this order exists."""
    if order not in (1, 2, 3):
        raise UserError(f"order={order} is not allowed; use 1, 2 or 3")


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


def _check_num_steps(num_steps: int, total: int) -> None:
    if not 1 <= num_steps <= total:
        raise UserError(
            f"num_steps={num_steps} is not allowed; the schedule has {total} timesteps, "
            f"use 1 to {total}"
        )


def _spaced_nodes(schedule: NoiseSchedule, spacing: str, num_steps: int) -> np.ndarray:
    """Return S+1 falling indices, the last of which is -1."""
    if spacing not in SPACINGS:
        raise UserError(f"unknown spacing {spacing!r}; use one of {', '.join(SPACINGS)}")
    total = len(schedule.alphas_cumprod)
    _check_num_steps(num_steps, total)
    steps = np.arange(num_steps)
    if spacing == "trailing":
        nodes = np.round(total - steps * total / num_steps) - 1
    elif spacing == "leading":
        nodes = (steps * total // num_steps)[::-1]
    elif spacing == "linspace":
        nodes = np.round(np.linspace(total - 1, 0, num_steps))
    else:
        nodes = _fractional_nodes(schedule, spacing, num_steps)[:-1]
    return np.append(nodes, -1.0)


def _fractional_nodes(schedule: NoiseSchedule, spacing: str, num_steps: int) -> np.ndarray:
    """Return S+1 falling indices from T-1 to 0, as DPM-Solver's quadratic and logSNR grids."""
    _check_one_schedule(schedule)
    ends = np.array([len(schedule.alphas_cumprod) - 1, 0])
    if spacing == "quadratic":
        first, last = np.sqrt(ends + 1.0)
        nodes = np.linspace(first, last, num_steps + 1) ** 2 - 1.0
    else:
        first, last = _half_log_snr(schedule, ends)
        half_log_snr = np.linspace(first, last, num_steps + 1)
        nodes = _index_of_half_log_snr(schedule, half_log_snr)
    nodes[[0, -1]] = ends
    return nodes


def _log_alpha_bar_table(schedule: NoiseSchedule) -> np.ndarray:
    """Return log(alpha_bar) at indices -1 ... T-1: clean data has no noise."""
    return np.append(0.0, np.log(np.asarray(schedule.alphas_cumprod, np.float64)))


def _log_alpha_bar(schedule: NoiseSchedule, index: np.ndarray) -> np.ndarray:
    table = _log_alpha_bar_table(schedule)
    return np.interp(index, np.arange(-1, len(table) - 1), table)


def _half_log_snr(schedule: NoiseSchedule, index: np.ndarray) -> np.ndarray:
    """Return lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)) at indices from 0."""
    log_alpha_bar = _log_alpha_bar(schedule, index)
    return 0.5 * (log_alpha_bar - np.log(-np.expm1(log_alpha_bar)))


def _index_of_half_log_snr(schedule: NoiseSchedule, half_log_snr: np.ndarray) -> np.ndarray:
    log_alpha_bar = -np.logaddexp(0.0, -2.0 * half_log_snr)
    table = _log_alpha_bar_table(schedule)[::-1]
    return np.interp(log_alpha_bar, table, np.arange(-1, len(table) - 1)[::-1])


def _grid(schedule: NoiseSchedule, index: np.ndarray, index_prev: np.ndarray) -> StepInfo:
    """Return the grid of steps between indices [S], which may be fractional or -1."""
    _check_one_schedule(schedule)
    log_alpha_bar = _log_alpha_bar(schedule, index)
    log_alpha_bar_prev = _log_alpha_bar(schedule, index_prev)
    labels = np.asarray(schedule.model_timesteps, np.float64)
    num_steps = len(index)
    steps = np.arange(num_steps)
    floats = {
        "alpha_bar": np.exp(log_alpha_bar),
        "alpha_bar_prev": np.exp(log_alpha_bar_prev),
        "one_minus_alpha_bar": -np.expm1(log_alpha_bar),
        # Not -0.0 at clean data.
        "one_minus_alpha_bar_prev": np.abs(np.expm1(log_alpha_bar_prev)),
        "beta": -np.expm1(log_alpha_bar - log_alpha_bar_prev),
        "time": np.interp(index, np.arange(len(labels)), labels),
        "time_prev": np.interp(index_prev, np.arange(len(labels)), labels),
    }
    integers = {
        "index": steps,
        "t": np.round(index),
        "t_prev": np.round(index_prev),
        "history": np.minimum(steps, num_steps - 1 - steps),
    }
    return StepInfo(
        **{name: field.astype(np.float32) for name, field in floats.items()},
        **{name: field.astype(np.int32) for name, field in integers.items()},
    )


def _check_one_schedule(schedule: NoiseSchedule) -> None:
    if np.ndim(schedule.alphas_cumprod) != 1:
        raise UserError("step grids need one schedule for all positions, tables of shape [T]")
