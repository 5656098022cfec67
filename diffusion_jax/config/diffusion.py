"""The forward process and the loss."""

from dataclasses import dataclass
from typing import Literal

from diffusion_jax.config.checks import require
from diffusion_jax.fields import check_fields


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The forward process and the loss.

    Attributes:
        schedule: noise schedule by name ("sqrt" is the published one).
        timesteps: number of training timesteps T.
        timestep_sampler: "uniform", "stratified" (low variance), "loss_aware" (DiffuSeq) or
            "time_warp" (CDCD: as many timesteps where the loss rises fast as it rises there;
            chains step through the same warped time).
        min_timestep: the least noisy timestep that is trained on and sampled at: noise-scale
            clipping (DINOISER, arXiv:2302.10025). Chains go from it straight to clean data.
        clip_noise: "fixed" clips at min_timestep (0 clips nothing, as published); "auto" follows
            the mean distance between neighbouring embeddings as they are learned, not below
            min_timestep (DINOISER, section 4.1).
        position_schedule: "shared" by all positions (as published), or "adaptive": each position of
            the target learns a schedule along which its loss rises linearly (SeqDiffuSeq,
            arXiv:2212.10325).
        adapt_every: training steps between two updates of adaptive schedules; the first comes after
            three times as many (published: 20,000).
        objective: "mse" on the estimate of x_start plus the rounding term (as published), or the
            "cross_entropy" of the words (CDCD, arXiv:2211.15089; needs model.readout "posterior").
        positions: average the loss over "all" positions (as published) or the "target" only.
        nll_input: compute the rounding term on the sampled "x_start" (as published) or on the
            network's "prediction".
        snr_weight: weigh the squared error by 1 + snr_weight * min(SNR, snr_clip); 0 as published.
            Words that are rare, or that others can stand for, are told apart at little noise only;
            without a weight the network may never learn to write them (docs/techniques.md).
        snr_clip: the largest signal-to-noise ratio that weighs.
        source_drop_rate: share of pairs trained without their source, so that sample.guidance_scale
            can weigh it (classifier-free guidance, arXiv:2207.12598; usually 0.1). Needs positions
            "target".
        given_rate: share of single texts trained with some of their words, or only their length,
            given (anchored, not noised), as infilling and length control give them in chains; 0 as
            published. See ``forward.sample_given_mask``.
        self_cond_rate: share of batches trained with their own estimates as an extra input.
        absorb_rate: DiffuSeq-v2's discrete noise: the probability, at full noise, that a token is
            replaced by the learned absorbing state (needs model.mean_embed; published: 0.5).
        mean_embed_penalty: weight of that state's norm in the loss (published: 0.01).
    """

    schedule: str = "sqrt"
    timesteps: int = 2000
    timestep_sampler: Literal["uniform", "stratified", "loss_aware", "time_warp"] = "uniform"
    min_timestep: int = 0
    clip_noise: Literal["fixed", "auto"] = "fixed"
    position_schedule: Literal["shared", "adaptive"] = "shared"
    adapt_every: int = 20_000
    objective: Literal["mse", "cross_entropy"] = "mse"
    positions: Literal["all", "target"] = "all"
    nll_input: Literal["x_start", "prediction"] = "x_start"
    snr_weight: float = 0.0
    snr_clip: float = 5.0
    source_drop_rate: float = 0.0
    given_rate: float = 0.0
    self_cond_rate: float = 0.0
    absorb_rate: float = 0.0
    mean_embed_penalty: float = 0.01

    def __post_init__(self) -> None:
        """Check ranges."""
        check_fields(self, "diffusion")
        require(self.timesteps >= 2, "diffusion.timesteps", self.timesteps, "at least 2")
        require(
            0 <= self.min_timestep <= self.timesteps - 2,
            "diffusion.min_timestep",
            self.min_timestep,
            f"at least 0, and leave 2 of diffusion.timesteps = {self.timesteps}",
        )
        require(self.adapt_every >= 1, "diffusion.adapt_every", self.adapt_every, "at least 1")
        shared = self.position_schedule == "shared"
        for name, plain in (("clip_noise", "fixed"), ("min_timestep", 0), ("absorb_rate", 0.0)):
            require(
                shared or getattr(self, name) == plain,
                f"diffusion.{name}",
                getattr(self, name),
                f"{plain!r} with adaptive schedules: positions share no noise level",
            )
        require(
            shared or self.timestep_sampler != "time_warp",
            "diffusion.timestep_sampler",
            self.timestep_sampler,
            "another with adaptive schedules of the positions: both would bend the same time",
        )
        require(
            self.objective == "mse" or self.nll_input == "x_start",
            "diffusion.nll_input",
            self.nll_input,
            'left as "x_start" with objective "cross_entropy", which has no rounding term',
        )
        require(self.snr_weight >= 0, "diffusion.snr_weight", self.snr_weight, "0 (off) or more")
        require(
            self.snr_weight == 0 or self.objective == "mse",
            "diffusion.snr_weight",
            self.snr_weight,
            '0 with objective "cross_entropy", which has no squared error',
        )
        require(self.snr_clip > 0, "diffusion.snr_clip", self.snr_clip, "a positive number")
        require(
            self.snr_weight > 0 or self.snr_clip == type(self).snr_clip,
            "diffusion.snr_clip",
            self.snr_clip,
            "left alone without diffusion.snr_weight",
        )
        require(
            0.0 <= self.source_drop_rate < 1.0,
            "diffusion.source_drop_rate",
            self.source_drop_rate,
            "a share from 0 to below 1",
        )
        require(
            self.source_drop_rate == 0 or self.positions == "target",
            "diffusion.source_drop_rate",
            self.source_drop_rate,
            "0, or choose --diffusion.positions target: a dropped source cannot be predicted",
        )
        require(
            0.0 <= self.given_rate < 1.0,
            "diffusion.given_rate",
            self.given_rate,
            "a share from 0 to below 1",
        )
        require(
            shared or self.given_rate == 0,
            "diffusion.given_rate",
            self.given_rate,
            "0 with adaptive schedules, which count positions from the first that is not given",
        )
        require(
            0.0 <= self.self_cond_rate <= 1.0,
            "diffusion.self_cond_rate",
            self.self_cond_rate,
            "a share between 0 and 1",
        )
        require(
            0.0 <= self.absorb_rate <= 1.0,
            "diffusion.absorb_rate",
            self.absorb_rate,
            "a probability between 0 and 1",
        )
        require(
            self.mean_embed_penalty >= 0,
            "diffusion.mean_embed_penalty",
            self.mean_embed_penalty,
            "0 or more",
        )
