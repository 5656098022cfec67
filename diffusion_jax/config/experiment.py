"""One run, whole: every section, and what spans them."""

import dataclasses
import json
from dataclasses import dataclass, field, replace

from diffusion_jax.config.checks import require
from diffusion_jax.config.data import DataConfig, TokenizerConfig
from diffusion_jax.config.diffusion import DiffusionConfig
from diffusion_jax.config.sampling import SampleConfig
from diffusion_jax.config.training import MeshConfig, OptimConfig, TrainConfig
from diffusion_jax.fields import check_fields
from diffusion_jax.models.spec import DenoiserConfig


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One run, whole.

    Attributes:
        name: a word or two for logs and directories.
        data: what is read.
        tokenizer: how text becomes ids.
        model: the network.
        diffusion: forward process and loss.
        optim: optimiser.
        train: the loop.
        sample: the reverse process.
        mesh: devices.
    """

    name: str = "run"
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: DenoiserConfig = field(default_factory=DenoiserConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    @property
    def needs_pad_id(self) -> bool:
        """Whether training asks what is padding."""
        return self.model.length_head or self.diffusion.given_rate > 0

    def for_shapes(self) -> "ExperimentConfig":
        """Return it fit to be compiled, not run: padding gets some id where one is asked for."""
        if not self.needs_pad_id or self.model.pad_id is not None:
            return self
        return replace(self, model=replace(self.model, pad_id=0))

    def __post_init__(self) -> None:
        """Check what spans sections."""
        check_fields(self)
        require(
            self.sample.steps <= self.diffusion.timesteps - self.diffusion.min_timestep,
            "sample.steps",
            self.sample.steps,
            f"at most diffusion.timesteps = {self.diffusion.timesteps}"
            + f" less diffusion.min_timestep = {self.diffusion.min_timestep}"
            * (self.diffusion.min_timestep > 0),
        )
        require(
            self.diffusion.self_cond_rate == 0 or self.model.self_conditioning,
            "diffusion.self_cond_rate",
            self.diffusion.self_cond_rate,
            "0, or switch on --model.self-conditioning",
        )
        require(
            self.diffusion.source_drop_rate == 0 or self.data.task == "pair",
            "diffusion.source_drop_rate",
            self.diffusion.source_drop_rate,
            '0 with data.task "text", which has no source',
        )
        require(
            self.diffusion.given_rate == 0 or self.data.task == "text",
            "diffusion.given_rate",
            self.diffusion.given_rate,
            '0 with data.task "pair", whose sources are given anyway',
        )
        require(
            self.sample.guidance_scale == 1 or self.diffusion.source_drop_rate > 0,
            "sample.guidance_scale",
            self.sample.guidance_scale,
            "1 for a model that never saw a missing source: train with "
            "--diffusion.source-drop-rate 0.1",
        )
        require(
            not self.model.length_head or self.data.task == "pair",
            "model.length_head",
            self.model.length_head,
            'False with data.task "text": lengths are predicted from sources',
        )
        adaptive = self.diffusion.position_schedule == "adaptive"
        require(
            not (adaptive and (self.model.mean_embed or self.model.length_head)),
            "diffusion.position_schedule",
            self.diffusion.position_schedule,
            '"shared" with model.mean_embed or model.length_head',
        )
        require(
            not adaptive or self.sample.sampler in ("ddpm", "ddim"),
            "sample.sampler",
            self.sample.sampler,
            '"ddpm" or "ddim" with adaptive schedules of the positions',
        )
        require(
            not adaptive or self.sample.spacing != "log_snr",
            "sample.spacing",
            self.sample.spacing,
            "a spacing in time with adaptive schedules: positions differ in their log-SNR",
        )
        posterior = self.model.readout == "posterior"
        require(
            self.diffusion.objective == "mse" or posterior,
            "diffusion.objective",
            self.diffusion.objective,
            '"mse", or choose --model.readout posterior',
        )
        require(
            self.sample.temperature == 1 or posterior,
            "sample.temperature",
            self.sample.temperature,
            "1 with model.readout 'vector': there are no logits to divide",
        )
        require(
            self.diffusion.absorb_rate == 0 or self.model.mean_embed,
            "diffusion.absorb_rate",
            self.diffusion.absorb_rate,
            "0, or switch on --model.mean-embed",
        )
        require(
            not self.sample.faithful_v2 or self.model.mean_embed,
            "sample.faithful_v2",
            self.sample.faithful_v2,
            "False: it repeats DiffuSeq-v2, and this model has no mean_embed",
        )

    def to_json(self) -> str:
        """Return the configuration as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"
