"""What a configuration compiles to: the pure functions of a run, composed once."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffusion_jax import keys
from diffusion_jax.config import DiffusionConfig, ExperimentConfig
from diffusion_jax.forward import sample_given_mask
from diffusion_jax.losses import cross_entropy_loss, diffusion_loss
from diffusion_jax.models.base import Model
from diffusion_jax.models.transformer import transformer_denoiser
from diffusion_jax.scale.sharding import rows_over
from diffusion_jax.schedules import NoiseSchedule, interpolate, make_schedule, respace
from diffusion_jax.timesteps import (
    TimestepSampler,
    adaptive_positions,
    clip_timesteps,
    lowest_timestep,
    make_timestep_sampler,
)
from diffusion_jax.train.optimizer import Optimizer
from diffusion_jax.train.state import TrainState
from diffusion_jax.train.step import LEVELS, LossFn, TrainStep
from diffusion_jax.train.transfer import base_spec, rate_multipliers, scale_output
from diffusion_jax.training_run import Learner, configured_optimizer, make_learner
from diffusion_jax.types import Params


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
    def build(cls, config: ExperimentConfig, mesh: Mesh | None = None) -> "Program":
        """Compose the pure functions of a complete configuration.

        Args:
            config: complete.
            mesh: the devices for which it will be compiled; None leaves the placement of
                activations to the compiler.
        """
        model = transformer_denoiser(config.model, place=None if mesh is None else rows_over(mesh))
        multipliers = None
        if config.optim.base_width:
            base = _abstract_base(config)
            own, init = jax.eval_shape(model.init, jax.random.key(0)), model.init
            multipliers = rate_multipliers(own, base)
            model = model._replace(init=lambda key: scale_output(init(key), base))
        schedule = make_schedule(config.diffusion.schedule, config.diffusion.timesteps)
        return cls(
            config=config,
            model=model,
            schedule=schedule,
            loss=make_loss(model, schedule, config.diffusion, config.model.pad_id),
            timestep_sampler=configured_timesteps(config, schedule),
            optimizer=configured_optimizer(config.optim, config.train.steps, multipliers),
        )

    def learner(self) -> Learner:
        """Return what training needs."""
        return make_learner(
            self.model.init,
            self.model.logical_axes,
            self.loss,
            self.timestep_sampler,
            self.config.diffusion.timesteps,
            self.optimizer,
            self.config.train,
        )

    def make_state(self, key: jax.Array) -> TrainState:
        """Return the state at step 0."""
        return self.learner().make_state(key)

    def abstract_state(self) -> TrainState:
        """Return the state's shapes and dtypes."""
        return jax.eval_shape(self.make_state, jax.random.key(0))

    @property
    def moves(self) -> bool:
        """Whether the path of a chain depends on what was learned, not on options alone."""
        return self.timestep_sampler.learns_path or self.config.diffusion.clip_noise == "auto"

    def chain_schedule(self, params: Params, timestep_state: Any) -> NoiseSchedule:
        """Return the schedule that chains run on: the trained part, in the sampler's own time.

        Noise below the clip is left out, so that a chain goes from there to clean data. With
        ``time_warp`` equal steps of the new index are equal steps of warped time. Time labels
        belong to the noise levels, as in training.

        Args:
            params: parameters on this host; looked at with ``clip_noise="auto"`` alone.
            timestep_state: of the checkpoint; looked at with ``time_warp`` and adaptive positions.

        Returns:
            Tables [T]; [T, P] with adaptive positions, counted from the start of the target.
        """
        if self.timestep_sampler.schedule is not None:
            return self.timestep_sampler.schedule(timestep_state)
        last = self.schedule.num_timesteps - 1
        lowest = int(_lowest(self.model, self.schedule, self.config.diffusion, params))
        if self.timestep_sampler.warp is None:
            return respace(self.schedule, range(lowest, last + 1)) if lowest else self.schedule
        quantiles = np.linspace(0.0, 1.0, last + 1 - lowest)
        share = self.timestep_sampler.warp(timestep_state, quantiles)
        return interpolate(self.schedule, lowest + share * (last - lowest))

    def train_step(self) -> TrainStep:
        """Return the pure training step."""
        return self.learner().train_step


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TermsWithLength:
    """The terms of an objective, and what the length head adds.

    Attributes:
        terms: of the diffusion.
        length_nll: surprise at the number of target tokens, nats [B].
    """

    terms: Any
    length_nll: jax.Array

    def total(self) -> jax.Array:
        """Return the sum of all terms [B]."""
        return self.terms.total() + self.length_nll

    @property
    def by_position(self) -> jax.Array:
        """The network's error at every position [B, L], where the terms have it."""
        return self.terms.by_position

    def _asdict(self) -> dict[str, jax.Array]:
        return {**self.terms._asdict(), "length_nll": self.length_nll}


def configured_timesteps(config: ExperimentConfig, schedule: NoiseSchedule) -> TimestepSampler:
    """Return the timestep sampler of a configuration."""
    options = config.diffusion
    sampler = make_timestep_sampler(options.timestep_sampler, options.timesteps)
    if options.position_schedule == "shared":
        return sampler
    return adaptive_positions(
        sampler, schedule, config.data.length, adapt_every=options.adapt_every
    )


def make_loss(
    model: Model, schedule: NoiseSchedule, options: DiffusionConfig, pad_id: int | None = None
) -> LossFn:
    """Return the loss of a batch, steered by the noise mask.

    Where the model predicts lengths, padding is given and not generated; with ``given_rate`` some
    words may be given too. ``pad_id`` says what is padding.

    The timesteps that it is given cover [0, T); those that it looks at are clipped to the noise
    that the options allow, so that every timestep sampler and validation stay above it.
    """
    clips = options.min_timestep > 0 or options.clip_noise == "auto"
    if options.objective == "cross_entropy":
        objective = cross_entropy_loss
    else:
        objective = partial(
            diffusion_loss,
            nll_input=options.nll_input,
            snr_weight=options.snr_weight,
            snr_clip=options.snr_clip,
        )

    def loss(params: Any, key: jax.Array, batch: Any, t: jax.Array, dropout_key: Any) -> Any:
        if clips:
            lowest = _lowest(model, schedule, options, params)
            t = clip_timesteps(t, lowest, schedule.num_timesteps)
        input_ids, noise_mask = batch["input_ids"], batch["noise_mask"]
        if options.given_rate > 0:
            if pad_id is None:
                raise ValueError("given_rate needs pad_id, which experiment.complete fills in")
            given_key = keys.stream(key, "given")
            noise_mask &= ~sample_given_mask(given_key, input_ids, pad_id, options.given_rate)
        target = noise_mask if model.predict_length is None else noise_mask & (input_ids != pad_id)
        terms = objective(
            key,
            model,
            params,
            schedule,
            input_ids,
            target,
            t,
            dropout_key=dropout_key,
            self_cond_rate=options.self_cond_rate,
            source_drop_rate=options.source_drop_rate,
            positions=options.positions,
            mean_embed=params.get("mean_embed"),
            absorb_rate=options.absorb_rate,
            penalty_weight=options.mean_embed_penalty,
            alpha_bar=batch.get(LEVELS),
            by_position=LEVELS in batch,
        )
        if model.predict_length is None:
            return terms
        log_probs = model.predict_length(params, input_ids, noise_mask)
        lengths = jnp.sum(target, axis=-1)
        nll = -jnp.take_along_axis(log_probs, lengths[:, None], axis=-1)[:, 0]
        return TermsWithLength(terms, nll)

    return loss


def _lowest(
    model: Model, schedule: NoiseSchedule, options: DiffusionConfig, params: Params
) -> jax.Array | int:
    """Return the least noisy timestep that is trained on."""
    if options.clip_noise == "fixed":
        return options.min_timestep
    learned = lowest_timestep(schedule, model.head(params).weight)
    return jnp.maximum(learned, options.min_timestep)


def _abstract_base(config: ExperimentConfig) -> Any:
    """Return the shapes of the parameters at the width for which the learning rate was tuned."""
    spec = base_spec(config.model, config.optim.base_width)
    return jax.eval_shape(transformer_denoiser(spec).init, jax.random.key(0))
