"""Runs of the networks beside the denoiser: classifiers that steer it, and its judge."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

from diffusion_jax.config.checks import require
from diffusion_jax.config.data import DataConfig, TokenizerConfig
from diffusion_jax.config.training import MeshConfig, OptimConfig, TrainConfig
from diffusion_jax.fields import check_fields
from diffusion_jax.models.shape import AutoregressiveConfig, ClassifierConfig

Reads = Literal["state", "estimate"]
Attributes = Literal["given", "said"]
# What was measured to steer better, see benchmarks/results/control.md.
BEST_READS: dict[str, Reads] = {"attribute": "estimate", "pos": "estimate", "tree": "state"}

# A few minutes on two CPU cores for rows of some twenty tokens.
CLASSIFIER_OPTIM = OptimConfig(learning_rate=1e-3, warmup_steps=100, clip_norm=1.0)
CLASSIFIER_TRAIN = TrainConfig(
    steps=3000,
    batch_size=64,
    ema_rates=(0.99,),
    validate_every=1000,
    preview_every=0,
    checkpoint_every=1000,
)


@dataclass(frozen=True, kw_only=True)
class ClassifierRunConfig:
    """The training of a noise-aware classifier on a run's own embeddings, noise and estimates.

    Attributes:
        kind: says in ``config.json`` what the run is of.
        name: a word or two for logs and directories.
        checkpoint: the run whose embeddings are used.
        fingerprint: of what of that run is used.
        reads: "state", the noisy latent (Li et al. 2022), or "estimate", what the run's denoiser
            makes of it.
        attributes: whose labels count: "given", those of the corpus, or "said", what the words of
            a text say by ``text.slots``: a text need not say all that it was written for.
        schedule: its noise schedule.
        timesteps: its number of training timesteps T.
        clean_rate: share of examples that are shown without noise.
        data: labelled corpus, packed as the run's was.
        model: the network; its ``task`` is what is predicted.
        optim: optimiser.
        train: the loop.
        mesh: devices.
    """

    kind: Literal["classifier"] = "classifier"
    name: str = "classifier"
    checkpoint: str = ""
    fingerprint: str = ""
    reads: Reads = "state"
    attributes: Attributes = "given"
    schedule: str = "sqrt"
    timesteps: int = 2000
    clean_rate: float = 0.05
    data: DataConfig = field(default_factory=DataConfig)
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    optim: OptimConfig = CLASSIFIER_OPTIM
    train: TrainConfig = CLASSIFIER_TRAIN
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        """Check ranges."""
        check_fields(self)
        require(0 <= self.clean_rate <= 1, "clean_rate", self.clean_rate, "a share from 0 to 1")
        require(
            self.attributes == "given" or self.model.task == "attribute",
            "attributes",
            self.attributes,
            '"given" for tags and trees',
        )
        require(
            self.train.preview_every == 0,
            "train.preview_every",
            self.train.preview_every,
            "0: a classifier writes no samples",
        )

    def to_json(self) -> str:
        """Return the configuration as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


AUTOREGRESSIVE_OPTIM = OptimConfig(learning_rate=2e-3, warmup_steps=100, clip_norm=1.0)
AUTOREGRESSIVE_TRAIN = TrainConfig(
    steps=3000,
    batch_size=64,
    ema_rates=(0.99,),
    validate_every=500,
    preview_every=500,
    checkpoint_every=1000,
)


@dataclass(frozen=True, kw_only=True)
class AutoregressiveRunConfig:
    """The training of an autoregressive Transformer, for texts or for targets of sources.

    Attributes:
        kind: says in ``config.json`` what the run is of.
        name: a word or two for logs and directories.
        data: what is read.
        prefix: what of the labels stands before each text, as a control: "none", "attributes",
            "pos", "length" or "tree".
        tokenizer: how text becomes ids.
        model: the network.
        optim: optimiser.
        train: the loop.
        mesh: devices.
    """

    kind: Literal["autoregressive"] = "autoregressive"
    name: str = "autoregressive"
    data: DataConfig = field(default_factory=DataConfig)
    prefix: Literal["none", "attributes", "pos", "length", "tree"] = "none"
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: AutoregressiveConfig = field(default_factory=AutoregressiveConfig)
    optim: OptimConfig = AUTOREGRESSIVE_OPTIM
    train: TrainConfig = AUTOREGRESSIVE_TRAIN
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        """Check what spans sections."""
        check_fields(self)
        require(
            self.prefix == "none" or self.data.task == "text",
            "prefix",
            self.prefix,
            '"none" with data.task "pair": pairs have a source already',
        )
        require(
            self.data.packing == "pad",
            "data.packing",
            self.data.packing,
            '"pad": every text is scored from its START',
        )

    @property
    def paired(self) -> bool:
        """Whether rows are a source (or a control) and a target."""
        return self.data.task == "pair" or self.prefix != "none"

    def to_json(self) -> str:
        """Return the configuration as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"
