"""The reverse process."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from diffusion_jax.config.checks import require
from diffusion_jax.fields import check_fields

# The samplers that honour an option which others would ignore.
_OWNERS = {
    "eta": ("ddim",),
    "variance": ("ddpm",),
    "order": ("dpm++",),
    "method": ("dpm++",),
    "faithful_v2": ("ddpm", "dpm++"),
}


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """The reverse process.

    Attributes:
        sampler: "ddpm" (ancestral), "ddim", or "dpm++" (DPM-Solver++, for few steps).
        steps: network calls per text, from 1 to the training timesteps.
        spacing: where they are made: "trailing" (equal strides in time), "leading", "linspace",
            "quadratic" (denser towards the end) or "log_snr" (uniform in log-SNR).
        eta: DDIM's noise, 0 (deterministic) to 1 (ancestral).
        variance: DDPM's variance, "fixed_small" or "fixed_large".
        order: of DPM-Solver++: 1, 2 or 3. The first and the last steps are of lower order: a third
            needs 5 steps (singlestep: 4), and the second is the first with 1 or 2.
        method: of DPM-Solver++: "multistep" reuses earlier estimates, "singlestep" makes ``order``
            calls for each longer step (and one for the last: order + 1 steps at least).
        time_shift: tell the network a time that is later than the state's by this share of the
            schedule (asymmetric time intervals; try 0.02 to 0.2 with few steps).
        clamp: round each estimate of x_start to the nearest embedding: at "all" steps, in the
            "last" half, or "none".
        guidance_scale: how much the source counts (classifier-free guidance, arXiv:2207.12598): 1
            is the model as it is, 0 ignores the source, more exaggerates it at two network calls
            a step.
        temperature: divides the logits of a model that predicts a token posterior (score
            temperature, CDCD, arXiv:2211.15089, section 6.3); below 1 is more decided.
        noise_bound: truncate the noise at plus or minus this many standard deviations; 0 means not.
        noise_scale: multiply the noise of every step, 0 to 1: below 1 the texts are more typical
            and less diverse (a temperature; arXiv:2302.02277).
        rounding: final words by the trained head ("head", as published) or the nearest embedding
            ("nearest").
        faithful_v2: repeat DiffuSeq-v2's published chain with its deviations (docs/samplers.md),
            for its numbers only; needs a model with mean_embed.
    """

    sampler: Literal["ddpm", "ddim", "dpm++"] = "ddpm"
    steps: int = 200
    spacing: Literal["trailing", "leading", "linspace", "quadratic", "log_snr"] = "trailing"
    eta: float = 0.0
    variance: Literal["fixed_small", "fixed_large"] = "fixed_small"
    order: int = 2
    method: Literal["multistep", "singlestep"] = "multistep"
    time_shift: float = 0.0
    clamp: Literal["all", "last", "none"] = "all"
    guidance_scale: float = 1.0
    temperature: float = 1.0
    noise_bound: float = 0.0
    noise_scale: float = 1.0
    rounding: Literal["head", "nearest"] = "head"
    faithful_v2: bool = False

    def __post_init__(self) -> None:
        """Check ranges, and refuse options that the chosen sampler would ignore."""
        check_fields(self, "sample")
        require(self.steps >= 1, "sample.steps", self.steps, "at least 1")
        require(0.0 <= self.eta <= 1.0, "sample.eta", self.eta, "between 0 and 1")
        require(
            0.0 <= self.guidance_scale < math.inf,
            "sample.guidance_scale",
            self.guidance_scale,
            "a number from 0",
        )
        require(self.temperature > 0, "sample.temperature", self.temperature, "above 0")
        require(self.order in (1, 2, 3), "sample.order", self.order, "1, 2 or 3")
        self._check_order_acts()
        require(
            0.0 <= self.time_shift < 1.0,
            "sample.time_shift",
            self.time_shift,
            "a share of the schedule from 0 (none) to below 1",
        )
        require(self.noise_bound >= 0, "sample.noise_bound", self.noise_bound, "0 (off) or more")
        require(
            0.0 <= self.noise_scale <= 1.0, "sample.noise_scale", self.noise_scale, "from 0 to 1"
        )
        for name, owners in _OWNERS.items():
            require(
                self.sampler in owners or getattr(self, name) == _default(name),
                f"sample.{name}",
                getattr(self, name),
                f'nothing with sampler "{self.sampler}": it is for {" and ".join(owners)} only',
            )
        require(
            self.draws_noise or self.noise_bound == 0,
            "sample.noise_bound",
            self.noise_bound,
            f'0 with deterministic "{self.sampler}": it draws no noise to truncate',
        )
        require(
            self.draws_noise or self.noise_scale == 1.0,
            "sample.noise_scale",
            self.noise_scale,
            f'1 with deterministic "{self.sampler}": it draws no noise to scale',
        )
        if self.faithful_v2:
            self._check_faithful()

    @property
    def draws_noise(self) -> bool:
        """Whether the steps are random, beyond the start."""
        return self.sampler == "ddpm" or (self.sampler == "ddim" and self.eta > 0)

    def changed(self, **options: Any) -> "SampleConfig":
        """Return a copy with other values.

        Where they name another sampler, options that only the old one honours fall back to their
        defaults unless they are given, too; where they ask for DiffuSeq-v2's published chain, all
        that it settles falls back to what it is there.
        """
        sampler = options.get("sampler", self.sampler)
        if sampler != self.sampler:
            stale = {name for name, owners in _OWNERS.items() if sampler not in owners}
            if sampler == "dpm++" or (sampler == "ddim" and not options.get("eta")):
                stale |= {"noise_bound", "noise_scale"}
            options = {name: _default(name) for name in stale} | options
        if options.get("faithful_v2"):
            published = {name: allowed[0] for name, allowed in _faithful(sampler).items()}
            options = published | options
        return dataclasses.replace(self, **options)

    def _check_order_acts(self) -> None:
        """Refuse an order or a method that no step of so few could use.

        The default order 2 is left to any number of steps, as it was perhaps not asked for.
        """
        single = self.method == "singlestep"
        if self.order == 1 or (self.order == 2 and not single):
            return
        # Multistep orders rise with the estimates that there are, and fall again before the end.
        needed = self.order + 1 if single else 2 * self.order - 1
        name = "order" if self.order == 3 else "method"
        require(
            self.steps >= needed,
            f"sample.{name}",
            getattr(self, name),
            f"{needed} steps or more with it: no step of {self.steps} could be of order "
            f"{self.order}",
        )

    def _check_faithful(self) -> None:
        for name, allowed in _faithful(self.sampler).items():
            require(
                getattr(self, name) in allowed,
                f"sample.{name}",
                getattr(self, name),
                f"{' or '.join(map(str, allowed))} with faithful_v2",
            )


def _faithful(sampler: str) -> dict[str, tuple[Any, ...]]:
    """Return what DiffuSeq-v2's published chains leave open, the usual value first."""
    of_sampler = {
        "ddpm": {"variance": ("fixed_large",)},
        "dpm++": {"method": ("multistep",), "order": (2,)},
    }
    return {
        **of_sampler.get(sampler, {}),
        "spacing": ("trailing", "log_snr", "quadratic"),
        "time_shift": (0.0,),
        "guidance_scale": (1.0,),
        "noise_scale": (1.0,),
        "noise_bound": (0.0,),
    }


def _default(name: str) -> Any:
    return SampleConfig.__dataclass_fields__[name].default
