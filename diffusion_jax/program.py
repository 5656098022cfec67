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
from diffusion_jax.train.optimizer import Optimizer
from diffusion_jax.train.state import TrainState
from diffusion_jax.train.step import LossFn, TrainStep
from diffusion_jax.training_run import Learner, configured_optimizer, make_learner


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
            optimizer=configured_optimizer(config.optim, config.train.steps),
        )

    def learner(self) -> Learner:
        """Return what training needs."""
        return make_learner(
            self.model.init,
            self.model.logical_axes,
            self.loss,
            self.timestep_sampler,
            self.config.diffusion.timesteps,
            self.config.optim,
            self.config.train,
        )

    def make_state(self, key: jax.Array) -> TrainState:
        """Return the state at step 0."""
        return self.learner().make_state(key)

    def abstract_state(self) -> TrainState:
        """Return the state's shapes and dtypes."""
        return jax.eval_shape(self.make_state, jax.random.key(0))

    def train_step(self) -> TrainStep:
        """Return the pure training step."""
        return self.learner().train_step


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
