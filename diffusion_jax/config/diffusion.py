"""The forward process and the loss."""

from dataclasses import dataclass
from typing import Literal

from diffusion_jax.config.checks import require


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The forward process and the loss.

    Attributes:
        schedule: noise schedule by name ("sqrt" is the published one).
        timesteps: number of training timesteps T.
        timestep_sampler: "uniform", "stratified" (low variance) or "loss_aware" (DiffuSeq).
        positions: average the loss over "all" positions (as published) or the "target" only.
        nll_input: compute the rounding term on the sampled "x_start" (as published) or on the
            network's "prediction".
        self_cond_rate: share of examples trained with their own estimate as an extra input.
    """

    schedule: str = "sqrt"
    timesteps: int = 2000
    timestep_sampler: Literal["uniform", "stratified", "loss_aware"] = "uniform"
    positions: Literal["all", "target"] = "all"
    nll_input: Literal["x_start", "prediction"] = "x_start"
    self_cond_rate: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.timesteps >= 2, "diffusion.timesteps", self.timesteps, "at least 2")
        require(
            0.0 <= self.self_cond_rate <= 1.0,
            "diffusion.self_cond_rate",
            self.self_cond_rate,
            "a share between 0 and 1",
        )
