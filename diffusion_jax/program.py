"""What a configuration compiles to: the pure functions of a run, composed once."""

from dataclasses import dataclass
from typing import Any

import jax

from diffusion_jax.config import DiffusionConfig, ExperimentConfig
from diffusion_jax.losses import diffusion_loss
from diffusion_jax.models.base import Model
from diffusion_jax.models.transformer import transformer_denoiser
from diffusion_jax.schedules import NoiseSchedule, make_schedule
from diffusion_jax.timesteps import TimestepSampler, make_timestep_sampler
from diffusion_jax.train.optimizer import Optimizer, make_optimizer
from diffusion_jax.train.state import TrainState, init_state
from diffusion_jax.train.step import LossFn, TrainStep, make_train_step


@dataclass(frozen=True)
class Program:
    """What a configuration compiles to.

    Attributes:
        config: complete, see ``complete``.
        model: the denoiser.
        schedule: the noise schedule.
        loss: loss of a batch.
        timestep_sampler: draws t.
        optimizer: AdamW.
    """

    config: ExperimentConfig
    model: Model
    schedule: NoiseSchedule
    loss: LossFn
    timestep_sampler: TimestepSampler
    optimizer: Optimizer

    @classmethod
    def build(cls, config: ExperimentConfig) -> "Program":
        """Compose the pure functions of a complete configuration."""
        model = transformer_denoiser(config.model)
        schedule = make_schedule(config.diffusion.schedule, config.diffusion.timesteps)
        return cls(
            config=config,
            model=model,
            schedule=schedule,
            loss=make_loss(model, schedule, config.diffusion),
            timestep_sampler=make_timestep_sampler(
                config.diffusion.timestep_sampler, config.diffusion.timesteps
            ),
            optimizer=make_configured_optimizer(config),
        )

    def make_state(self, key: jax.Array) -> TrainState:
        """Return the state at step 0."""
        return init_state(
            self.model.init(key),
            self.optimizer,
            ema_rates=self.config.train.ema_rates,
            timestep_state=self.timestep_sampler.init(),
        )

    def abstract_state(self) -> TrainState:
        """Return the state's shapes and dtypes."""
        return jax.eval_shape(self.make_state, jax.random.key(0))

    def train_step(self) -> TrainStep:
        """Return the pure training step."""
        return make_train_step(
            self.loss,
            self.optimizer,
            self.timestep_sampler,
            num_timesteps=self.config.diffusion.timesteps,
            num_microbatches=self.config.train.microbatches,
        )


def make_loss(model: Model, schedule: NoiseSchedule, options: DiffusionConfig) -> LossFn:
    """Return the loss of a batch: the terms of both papers, steered by the noise mask."""

    def loss(params: Any, key: jax.Array, batch: Any, t: jax.Array, dropout_key: Any) -> Any:
        return diffusion_loss(
            key,
            model,
            params,
            schedule,
            batch["input_ids"],
            batch["noise_mask"],
            t,
            dropout_key=dropout_key,
            self_cond_rate=options.self_cond_rate,
            positions=options.positions,
            nll_input=options.nll_input,
        )

    return loss


def make_configured_optimizer(config: ExperimentConfig) -> Optimizer:
    """Return AdamW as the configuration describes it."""
    options = config.optim
    return make_optimizer(
        options.learning_rate,
        config.train.steps,
        warmup_steps=options.warmup_steps,
        schedule=options.decay,
        weight_decay=options.weight_decay,
        betas=options.betas,
        eps=options.eps,
        clip_norm=options.clip_norm or None,
    )
