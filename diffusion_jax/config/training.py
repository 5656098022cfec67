"""The optimiser, the loop and the devices."""

from dataclasses import dataclass
from typing import Literal

from diffusion_jax.config.checks import require
from diffusion_jax.fields import check_fields


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its learning rate.

    Attributes:
        learning_rate: peak learning rate.
        warmup_steps: linear warm-up from 0 over this many steps.
        decay: "linear" falls to 0 at the last step (as published), "cosine" too, "constant" stays.
        weight_decay: decoupled weight decay.
        betas: AdamW's decay rates of the first and second moments.
        eps: AdamW's epsilon.
        clip_norm: clip gradients to this global norm; 0 switches clipping off.
        base_width: the hidden_dim for which learning_rate was tuned: at another one, rates and the
            output's initial size are scaled so that it stays right (muP, arXiv:2203.03466); 0
            switches that off.
    """

    learning_rate: float = 1e-4
    warmup_steps: int = 0
    decay: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float = 0.0
    base_width: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        check_fields(self, "optim")
        require(self.learning_rate > 0, "optim.learning_rate", self.learning_rate, "above 0")
        require(self.warmup_steps >= 0, "optim.warmup_steps", self.warmup_steps, "0 or more")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        require(self.clip_norm >= 0, "optim.clip_norm", self.clip_norm, "0 (off) or more")
        require(self.base_width >= 0, "optim.base_width", self.base_width, "0 (off) or a width")
        require(self.eps > 0, "optim.eps", self.eps, "above 0")
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "optim.betas",
            self.betas,
            "two numbers in [0, 1)",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how large, how often.

    Attributes:
        steps: optimiser steps.
        batch_size: global batch over all devices and hosts.
        microbatches: split each batch into this many, gradients averaged.
        ema_rates: decay rates of the averaged parameters; the first one is sampled from.
        seed: seed of initialisation, noise, dropout and data order.
        log_every: write metrics every so many steps.
        validate_every: validation loss every so many steps; 0 means never.
        preview_every: show a few samples every so many steps; 0 means never.
        checkpoint_every: save every so many steps (the last step is always saved).
        keep_checkpoints: how many of the newest checkpoints stay.
        tensorboard: also write TensorBoard files (extra "tensorboard").
        profile_steps: write a trace of so many steps, after the first two, to the run's profile/;
            0 means none.
        compilation_cache: keep compiled programs in the run's compiled/, so that a resumed run
            starts at once.
    """

    steps: int = 200_000
    batch_size: int = 64
    microbatches: int = 1
    ema_rates: tuple[float, ...] = (0.9999,)
    seed: int = 0
    log_every: int = 50
    validate_every: int = 1000
    preview_every: int = 2000
    checkpoint_every: int = 5000
    keep_checkpoints: int = 3
    tensorboard: bool = False
    profile_steps: int = 0
    compilation_cache: bool = True

    def __post_init__(self) -> None:
        """Check ranges and divisibility."""
        check_fields(self, "train")
        for name in ("steps", "batch_size", "microbatches", "log_every", "checkpoint_every"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        for name in ("validate_every", "preview_every", "profile_steps"):
            require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        # The newest checkpoint may be damaged by a crash; one older must be there to fall back on.
        require(
            self.keep_checkpoints >= 2,
            "train.keep_checkpoints",
            self.keep_checkpoints,
            "at least 2, so that a damaged newest checkpoint leaves one to fall back on",
        )
        require(0 <= self.seed < 2**32, "train.seed", self.seed, "from 0 to 2**32 - 1")
        require(
            self.batch_size % self.microbatches == 0,
            "train.microbatches",
            self.microbatches,
            f"a divisor of train.batch_size = {self.batch_size}",
        )
        require(
            all(0 < rate < 1 for rate in self.ema_rates),
            "train.ema_rates",
            self.ema_rates,
            "rates between 0 and 1 (or none)",
        )


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices are laid out; the three sizes multiply to the number of devices.

    Attributes:
        data: data-parallel axis; -1 takes the devices that remain.
        fsdp: axis over which parameters and optimiser are sharded too.
        tensor: axis over which single matrices are split.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        """Check ranges."""
        check_fields(self, "mesh")
        require(self.data == -1 or self.data >= 1, "mesh.data", self.data, "-1 or at least 1")
        require(self.fsdp >= 1, "mesh.fsdp", self.fsdp, "at least 1")
        require(self.tensor >= 1, "mesh.tensor", self.tensor, "at least 1")
