"""Noise schedules: how fast a latent is turned into noise.

Notation of Ho et al. 2020 (arXiv:2006.11239): ``betas[t]`` is the variance that step t adds,
``alphas_cumprod[t] = prod_{s <= t} (1 - betas[s])`` the share of signal variance left at index t.
Index 0 is the least noisy. Tables are built once, on the host, in float64; ``extract`` is the only
place where they become float32.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.errors import UserError

Table = Any
"""A float64 numpy array over timesteps, [T] or [T, L]; a jax array where a schedule is traced."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseSchedule:
    """Everything that the forward and reverse processes look up, one entry per timestep.

    All tables are [T]. They may also be [T, L], a schedule of its own for every position, as in
    SeqDiffuSeq (arXiv:2212.10325); only ``model_timesteps`` is always [T].

    Close over a schedule in jitted code where you can: as an argument its tables arrive as float32,
    and differences of neighbouring entries are then good to about three digits only.

    Attributes:
        betas: variance added by step t.
        alphas_cumprod: signal variance left at t.
        alphas_cumprod_prev: the same one step earlier; 1 at t = 0.
        posterior_mean_coef1: weight of ``x_start`` in the mean of q(x_{t-1} | x_t, x_start).
        posterior_mean_coef2: weight of ``x_t`` in the same mean.
        posterior_variance: variance of q(x_{t-1} | x_t, x_start); 0 at t = 0.
        posterior_log_variance_clipped: its logarithm, with entry 1 in place of entry 0.
        model_timesteps: the time label that the network is told, in [0, 1000).
    """

    betas: Table
    alphas_cumprod: Table
    alphas_cumprod_prev: Table
    posterior_mean_coef1: Table
    posterior_mean_coef2: Table
    posterior_variance: Table
    posterior_log_variance_clipped: Table
    model_timesteps: Table

    @property
    def num_timesteps(self) -> int:
        """The number of timesteps T."""
        return self.alphas_cumprod.shape[0]

    @property
    def sqrt_alphas_cumprod(self) -> Table:
        """Scale of ``x_start`` in ``x_t``."""
        return _namespace(self.alphas_cumprod).sqrt(self.alphas_cumprod)

    @property
    def one_minus_alphas_cumprod(self) -> Table:
        """Variance of the noise in ``x_t``."""
        return 1.0 - self.alphas_cumprod

    @property
    def sqrt_one_minus_alphas_cumprod(self) -> Table:
        """Standard deviation of the noise in ``x_t``."""
        return _namespace(self.alphas_cumprod).sqrt(self.one_minus_alphas_cumprod)

    @property
    def sqrt_recip_alphas_cumprod(self) -> Table:
        """``sqrt(1 / alphas_cumprod)``."""
        return _namespace(self.alphas_cumprod).sqrt(1.0 / self.alphas_cumprod)

    @property
    def sqrt_recipm1_alphas_cumprod(self) -> Table:
        """``sqrt(1 / alphas_cumprod - 1)``."""
        return _namespace(self.alphas_cumprod).sqrt(1.0 / self.alphas_cumprod - 1.0)

    @property
    def log_alphas_cumprod(self) -> Table:
        """``log(alphas_cumprod)``."""
        return _namespace(self.alphas_cumprod).log(self.alphas_cumprod)

    @property
    def log_snr(self) -> Table:
        """Log of the signal-to-noise ratio, ``log(alphas_cumprod / (1 - alphas_cumprod))``."""
        log_noise = _namespace(self.alphas_cumprod).log(self.one_minus_alphas_cumprod)
        return self.log_alphas_cumprod - log_noise

    @property
    def fixed_large_variance(self) -> Table:
        """The larger choice of reverse variance: betas, with the posterior variance 1 at t = 0."""
        first = self.posterior_variance[1:2]
        return _namespace(self.betas).concatenate([first, self.betas[1:]])


def make_schedule(name: str, num_timesteps: int, *, max_beta: float = 0.999) -> NoiseSchedule:
    """Build a named schedule.

    ``sqrt`` is Diffusion-LM's (arXiv:2205.14217, section 4.2), ``cosine`` Nichol & Dhariwal's
    (arXiv:2102.09672), ``linear`` Ho et al.'s, ``warmup-decay`` DiffuSeq-v2's (arXiv:2310.05793).

    Args:
        name: one of ``schedule_names()``.
        num_timesteps: T.
        max_beta: largest admissible beta, in (0, 1). Schedules given by a curve of
            ``alphas_cumprod`` are clipped to it; schedules given by straight lines of betas are
            refused where they pass it, which happens when T is too small.

    Returns:
        The schedule; time labels are ``t * 1000 / T``.

    Raises:
        UserError: unknown name, T out of range for the name, or ``max_beta`` outside (0, 1).
    """
    if name not in _BETAS:
        close = difflib.get_close_matches(name, _BETAS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"unknown schedule {name!r}; choose one of {', '.join(_BETAS)}{hint}")
    if not 0.0 < max_beta < 1.0:
        raise UserError(f"max_beta={max_beta} must lie strictly between 0 and 1")
    smallest = 10 if name == "pw_lin" else 2
    if num_timesteps < smallest:
        raise UserError(
            f"num_timesteps={num_timesteps}: schedule {name!r} needs at least {smallest}"
        )
    betas = _BETAS[name](num_timesteps, max_beta)
    if betas.max() > max_beta:
        raise UserError(
            f"schedule {name!r} with num_timesteps={num_timesteps} reaches beta={betas.max():.4g}, "
            f"above max_beta={max_beta}; use more timesteps (the published runs use 2000) or a "
            "schedule such as 'sqrt' that is clipped"
        )
    return schedule_from_betas(betas, np.arange(num_timesteps) * (1000.0 / num_timesteps))


def schedule_names() -> tuple[str, ...]:
    """List the names that ``make_schedule`` knows."""
    return tuple(_BETAS)


def schedule_from_betas(betas: np.ndarray, model_timesteps: np.ndarray) -> NoiseSchedule:
    """Derive every table from betas.

    Args:
        betas: float64 [T] or [T, L], in (0, 1), T at least 2.
        model_timesteps: float64 [T], the time labels told to the network.

    Raises:
        UserError: fewer than two timesteps, or a beta outside (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if len(betas) < 2:
        raise UserError(f"a schedule of {len(betas)} timesteps was asked for; it needs at least 2")
    if not np.all((betas > 0.0) & (betas < 1.0)):
        raise UserError("every beta must lie strictly between 0 and 1")
    alphas_cumprod = np.cumprod(1.0 - betas, axis=0)
    alphas_cumprod_prev = np.concatenate([np.ones_like(betas[:1]), alphas_cumprod[:-1]])
    noise = 1.0 - alphas_cumprod
    noise_prev = 1.0 - alphas_cumprod_prev
    posterior_variance = betas * noise_prev / noise
    clipped = np.concatenate([posterior_variance[1:2], posterior_variance[1:]])
    return NoiseSchedule(
        betas=betas,
        alphas_cumprod=alphas_cumprod,
        alphas_cumprod_prev=alphas_cumprod_prev,
        posterior_mean_coef1=betas * np.sqrt(alphas_cumprod_prev) / noise,
        posterior_mean_coef2=noise_prev * np.sqrt(1.0 - betas) / noise,
        posterior_variance=posterior_variance,
        posterior_log_variance_clipped=np.log(clipped),
        model_timesteps=np.asarray(model_timesteps, np.float64),
    )


def respace(schedule: NoiseSchedule, kept_timesteps: Sequence[int]) -> NoiseSchedule:
    """Keep some timesteps, with betas that leave ``alphas_cumprod`` at those steps unchanged.

    The network is still told the time labels of the original steps (Nichol & Dhariwal 2021,
    section 4).

    Args:
        schedule: the training schedule, T steps.
        kept_timesteps: strictly increasing indices in [0, T), at least two.

    Raises:
        UserError: indices that are out of range, repeated, not increasing, or fewer than two.
    """
    kept = np.asarray(kept_timesteps, dtype=np.int64)
    in_range = kept.ndim == 1 and np.all((kept >= 0) & (kept < schedule.num_timesteps))
    if not in_range or not np.all(np.diff(kept) > 0):
        raise UserError(
            f"kept_timesteps must be strictly increasing indices below {schedule.num_timesteps}, "
            f"got {list(kept_timesteps)[:12]}"
        )
    alphas_cumprod = schedule.alphas_cumprod[kept]
    previous = np.concatenate([np.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])
    return schedule_from_betas(1.0 - alphas_cumprod / previous, schedule.model_timesteps[kept])


def interpolate(schedule: NoiseSchedule, index: np.ndarray) -> NoiseSchedule:
    """Return the schedule that stands at fractional indices of another: the same path, other steps.

    Between indices ``log(alphas_cumprod)`` and the time labels are linear.

    Args:
        schedule: tables of shape [T].
        index: float64 [N], strictly increasing, in [0, T - 1], at least two.
    """
    steps = np.arange(schedule.num_timesteps)
    alphas_cumprod = np.exp(np.interp(index, steps, schedule.log_alphas_cumprod))
    previous = np.concatenate([np.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])
    labels = np.interp(index, steps, schedule.model_timesteps)
    return schedule_from_betas(1.0 - alphas_cumprod / previous, labels)


def parse_respacing(spec: str, num_timesteps: int) -> tuple[int, ...]:
    """Turn a respacing specification into the timesteps to keep.

    Args:
        spec: ``""`` keeps all; ``"ddim50"`` keeps 50 with one whole-number stride, starting at 0;
            ``"10,15,20"`` divides the timesteps into three equal sections (the first ones take the
            remainder) and spreads that many steps over each, both ends of a section included.
        num_timesteps: T.

    Returns:
        Increasing indices in [0, T).

    Raises:
        UserError: unreadable specification, no stride that fits, or more steps than a section has.
    """
    if not spec:
        return tuple(range(num_timesteps))
    if spec.startswith("ddim"):
        return _strided(_count(spec.removeprefix("ddim"), spec), num_timesteps, spec)
    counts = [_count(part, spec) for part in spec.split(",")]
    share, remainder = divmod(num_timesteps, len(counts))
    kept: list[int] = []
    start = 0
    for index, count in enumerate(counts):
        size = share + (index < remainder)
        if count > size:
            raise UserError(f"respacing {spec!r} asks for {count} steps of a section of {size}")
        kept += _spread(start, size, count)
        start += size
    return tuple(kept)


def extract(table: Table, t: jax.Array, ndim: int) -> jax.Array:
    """Look up ``table[t]`` as float32 and append axes until it has ``ndim`` dimensions.

    Args:
        table: [T], or [T, L] for a schedule per position.
        t: int32 [B], in [0, T).
        ndim: number of dimensions of the array that the values will multiply.

    Returns:
        float32 [B, 1, ...] (or [B, L, 1, ...]), ``ndim`` dimensions.
    """
    values = jnp.asarray(table, jnp.float32)[t]
    return values.reshape(values.shape + (1,) * (ndim - values.ndim))


def _namespace(table: Table) -> ModuleType:
    """Choose numpy (float64, on the host) unless the schedule is being traced."""
    return np if isinstance(table, np.ndarray) else jnp


def _sqrt_curve(u: float) -> float:
    # Passes below zero at u = 1, so the last beta is always the clipped one, as in the original.
    return 1.0 - math.sqrt(u + 1e-4)


def _cosine_curve(offset: float) -> Callable[[float], float]:
    return lambda u: math.cos((u + offset) / (1.0 + offset) * math.pi / 2.0) ** 2


def _betas_from_curve(curve: Callable[[float], float], T: int, max_beta: float) -> np.ndarray:
    """Discretise so that ``alphas_cumprod[i] = curve((i + 1) / T) / curve(0)``, until clipped."""
    steps = [1.0 - curve((i + 1) / T) / curve(i / T) for i in range(T)]
    return np.minimum(np.array(steps), max_beta)


def _betas_from_curve_left(curve: Callable[[float], float], T: int, max_beta: float) -> np.ndarray:
    """Discretise so that ``alphas_cumprod[i] = curve(i / T)``: the first step already has noise."""
    steps = [1.0 - curve(0.0)] + [1.0 - curve((i + 1) / T) / curve(i / T) for i in range(T - 1)]
    return np.minimum(np.array(steps), max_beta)


def _linear(T: int, offset: float = 0.0) -> np.ndarray:
    scale = 1000.0 / T
    return np.linspace(scale * 1e-4 + offset, scale * 0.02 + offset, T)


def _piecewise_linear(T: int) -> np.ndarray:
    scale = 1000.0 / T
    low = scale * 1e-4
    falling = np.linspace(low + 0.01, low, 10)
    return np.concatenate([falling, np.linspace(low, scale * 0.02, T - 10)])


def _warmup_decay(T: int, max_beta: float) -> np.ndarray:
    betas = _betas_from_curve(_sqrt_curve, T, max_beta)
    tail = max(1, int(0.1 * T))
    betas[-tail:] = np.linspace(betas[-tail], 1e-4, tail)
    return betas


_BETAS: dict[str, Callable[[int, float], np.ndarray]] = {
    "sqrt": lambda T, cap: _betas_from_curve(_sqrt_curve, T, cap),
    "cosine": lambda T, cap: _betas_from_curve(_cosine_curve(0.008), T, cap),
    "linear": lambda T, cap: _linear(T),
    "trunc_cos": lambda T, cap: _betas_from_curve_left(_cosine_curve(0.1), T, cap),
    "trunc_lin": lambda T, cap: _linear(T, offset=0.01),
    "pw_lin": lambda T, cap: _piecewise_linear(T),
    "warmup-decay": _warmup_decay,
}


def _count(text: str, spec: str) -> int:
    if not text.strip().isdecimal():
        raise UserError(
            f"respacing {spec!r} is not understood; write 'ddim50', '10,15,20' or nothing"
        )
    return int(text)


def _strided(count: int, num_timesteps: int, spec: str) -> tuple[int, ...]:
    for stride in range(1, num_timesteps):
        kept = range(0, num_timesteps, stride)
        if len(kept) == count:
            return tuple(kept)
    raise UserError(
        f"respacing {spec!r}: no whole-number stride over {num_timesteps} gives {count}"
    )


def _spread(start: int, size: int, count: int) -> list[int]:
    stride = (size - 1) / (count - 1) if count > 1 else 1.0
    # Summing the stride, not multiplying it, is what decides how halves round in the original.
    positions, position = [], 0.0
    for _ in range(count):
        positions.append(start + round(position))
        position += stride
    return positions
