"""The reverse process."""

from dataclasses import dataclass
from typing import Literal

from diffusion_jax.config.checks import require


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """The reverse process.

    Attributes:
        sampler: "ddpm" (ancestral) or "ddim".
        steps: sampling steps, evenly spaced in the training timesteps.
        eta: DDIM's noise, 0 (deterministic) to 1 (ancestral).
        variance: DDPM's variance, "fixed_small" or "fixed_large".
        clamp: round each estimate of x_start to the nearest embedding: at "all" steps, in the
            "last" half, or "none".
        temperature: divides the logits of a model that predicts a token posterior (score
            temperature, CDCD, arXiv:2211.15089, section 6.3); below 1 is more decided.
        noise_bound: truncate the noise at plus or minus this many standard deviations; 0 means not.
        rounding: final words by the trained head ("head", as published) or the nearest embedding
            ("nearest").
    """

    sampler: Literal["ddpm", "ddim"] = "ddpm"
    steps: int = 200
    eta: float = 0.0
    variance: Literal["fixed_small", "fixed_large"] = "fixed_small"
    clamp: Literal["all", "last", "none"] = "all"
    temperature: float = 1.0
    noise_bound: float = 0.0
    rounding: Literal["head", "nearest"] = "head"

    def __post_init__(self) -> None:
        """Check ranges, and refuse options that the chosen sampler would ignore."""
        require(self.steps >= 1, "sample.steps", self.steps, "at least 1")
        require(0.0 <= self.eta <= 1.0, "sample.eta", self.eta, "between 0 and 1")
        require(self.temperature > 0, "sample.temperature", self.temperature, "above 0")
        require(self.noise_bound >= 0, "sample.noise_bound", self.noise_bound, "0 (off) or more")
        require(
            self.sampler == "ddim" or self.eta == 0.0,
            "sample.eta",
            self.eta,
            'nothing with sampler "ddpm", or choose --sample.sampler ddim',
        )
        require(
            self.sampler == "ddpm" or self.variance == "fixed_small",
            "sample.variance",
            self.variance,
            'nothing with sampler "ddim", or choose --sample.sampler ddpm',
        )
        require(
            self.sampler == "ddpm" or self.eta > 0 or self.noise_bound == 0,
            "sample.noise_bound",
            self.noise_bound,
            "0 with deterministic DDIM: it draws no noise to truncate",
        )
