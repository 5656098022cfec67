"""Everything a run is told, as frozen dataclasses: checked when built, JSON both ways.

An experiment is a Python file with ``def config(scale="full") -> ExperimentConfig``; the command
line overrides any field by its dotted name (``--train.batch-size 64``). The resolved one is
stored beside the checkpoint as ``config.json`` and is what sampling reads.

Nothing here imports jax, so that ``--help`` answers at once.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

from diffusion_jax.errors import UserError
from diffusion_jax.models.spec import DenoiserConfig


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise UserError naming the field, what was given and what is allowed."""
    if not condition:
        raise UserError(f"{name} = {value!r} is not allowed; give {allowed}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and how it becomes rows of token ids.

    Attributes:
        corpus: training corpus: "grammar:small", "grammar:full", "grammar:small/data_to_text",
            "grammar:full/paraphrase", a path (.txt, .csv, .jsonl, or "src.txt,trg.txt"), or
            "tfds:NAME".
        validation: validation corpus; empty means the validation split of the same corpus, where it
            has one (the grammar, TFDS); otherwise nothing is validated.
        task: "text" learns sentences; "pair" learns target given source by partial noising.
        format: how to read a file: "auto" goes by its name and first lines; else "lines", "e2e",
            "stars", "csv", "jsonl" or "parallel".
        columns: column names to read: one for text, two (source, target) for pairs; empty means the
            format's own.
        where: keep only rows with these values, each "column=value" (csv, JSON lines, TFDS).
        size: read at most this many examples; for the grammar, draw this many; 0 means all (the
            grammar's default is 20,000).
        validation_size: likewise for validation.
        data_dir: where TFDS keeps its datasets; empty means TFDS's own default.
        keep_newline: end each text with a newline token, as Diffusion-LM does with E2E.
        length: row length L in tokens, padding included.
        packing: "pad" gives each sentence its row; "block" cuts the concatenated text into rows.
        on_long: what to do with an example longer than the row: "error", "truncate" or "drop".
        cache: directory where tokenised corpora are kept, memory-mapped, for corpora larger than
            memory; empty means in memory.
    """

    corpus: str = "grammar:small"
    validation: str = ""
    task: Literal["text", "pair"] = "text"
    format: Literal["auto", "lines", "e2e", "stars", "csv", "jsonl", "parallel"] = "auto"
    columns: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    size: int = 0
    validation_size: int = 1000
    data_dir: str = ""
    keep_newline: bool = False
    length: int = 64
    packing: Literal["pad", "block"] = "pad"
    on_long: Literal["error", "truncate", "drop"] = "error"
    cache: str = ""

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        require(bool(self.corpus), "data.corpus", self.corpus, "a corpus name or a path")
        require(self.length >= 5, "data.length", self.length, "at least 5 tokens")
        require(self.size >= 0, "data.size", self.size, "0 (all) or more")
        require(
            self.validation_size >= 0, "data.validation_size", self.validation_size, "0 or more"
        )
        require(
            not (self.task == "pair" and self.packing == "block"),
            "data.packing",
            self.packing,
            '"pad": a pair fills its own row',
        )
        wanted = 2 if self.task == "pair" else 1
        require(
            len(self.columns) in (0, wanted),
            "data.columns",
            self.columns,
            f"{wanted} column name(s) for task {self.task!r}, or none",
        )
        for condition in self.where:
            require("=" in condition, "data.where", condition, '"column=value"')


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How text becomes token ids.

    Attributes:
        kind: "word" splits on spaces, "sentencepiece" is trained on the corpus, "wordpiece" is
            BERT's and needs its vocabulary file.
        min_count: "word": words seen this often or less become unknown (default 10, as
            Diffusion-LM; 0 keeps every word).
        vocab_size: "sentencepiece": how many pieces to learn.
        vocab_file: a finished vocabulary: BERT's vocab.txt ("wordpiece" needs it), a word list or a
            SentencePiece model.
        lowercase: "wordpiece": whether the vocabulary is uncased (default true).
    """

    kind: Literal["word", "sentencepiece", "wordpiece"] = "word"
    min_count: int | None = None
    vocab_size: int | None = None
    vocab_file: str | None = None
    lowercase: bool | None = None

    def __post_init__(self) -> None:
        """Check ranges, and refuse options that the chosen kind would ignore."""
        owners = {"min_count": "word", "vocab_size": "sentencepiece", "lowercase": "wordpiece"}
        for name, kind in owners.items():
            value = getattr(self, name)
            require(
                value is None or self.kind == kind,
                f"tokenizer.{name}",
                value,
                f"nothing with kind {self.kind!r}: it belongs to kind {kind!r}",
            )
        require(
            self.kind != "wordpiece" or self.vocab_file is not None,
            "tokenizer.vocab_file",
            self.vocab_file,
            "the path of BERT's vocab.txt when tokenizer.kind is wordpiece",
        )
        require(
            self.min_count is None or self.min_count >= 0,
            "tokenizer.min_count",
            self.min_count,
            "0 or more",
        )
        require(
            self.vocab_size is None or self.vocab_size >= 8,
            "tokenizer.vocab_size",
            self.vocab_size,
            "at least 8",
        )


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
    """

    learning_rate: float = 1e-4
    warmup_steps: int = 0
    decay: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.learning_rate > 0, "optim.learning_rate", self.learning_rate, "above 0")
        require(self.warmup_steps >= 0, "optim.warmup_steps", self.warmup_steps, "0 or more")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        require(self.clip_norm >= 0, "optim.clip_norm", self.clip_norm, "0 (off) or more")
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

    def __post_init__(self) -> None:
        """Check ranges and divisibility."""
        for name in ("steps", "batch_size", "microbatches", "log_every", "checkpoint_every"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        for name in ("validate_every", "preview_every"):
            require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        # The newest checkpoint may be damaged by a crash; one older must be there to fall back on.
        require(
            self.keep_checkpoints >= 2,
            "train.keep_checkpoints",
            self.keep_checkpoints,
            "at least 2, so that a damaged newest checkpoint leaves one to fall back on",
        )
        require(self.seed >= 0, "train.seed", self.seed, "0 or more")
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
class SampleConfig:
    """The reverse process.

    Attributes:
        sampler: "ddpm" (ancestral) or "ddim".
        steps: sampling steps, evenly spaced in the training timesteps.
        eta: DDIM's noise, 0 (deterministic) to 1 (ancestral).
        variance: DDPM's variance, "fixed_small" or "fixed_large".
        clamp: round each estimate of x_start to the nearest embedding: at "all" steps, in the
            "last" half, or "none".
        noise_bound: truncate the noise at plus or minus this many standard deviations; 0 means not.
        rounding: final words by the trained head ("head", as published) or the nearest embedding
            ("nearest").
    """

    sampler: Literal["ddpm", "ddim"] = "ddpm"
    steps: int = 200
    eta: float = 0.0
    variance: Literal["fixed_small", "fixed_large"] = "fixed_small"
    clamp: Literal["all", "last", "none"] = "all"
    noise_bound: float = 0.0
    rounding: Literal["head", "nearest"] = "head"

    def __post_init__(self) -> None:
        """Check ranges, and refuse options that the chosen sampler would ignore."""
        require(self.steps >= 1, "sample.steps", self.steps, "at least 1")
        require(0.0 <= self.eta <= 1.0, "sample.eta", self.eta, "between 0 and 1")
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
        require(self.data == -1 or self.data >= 1, "mesh.data", self.data, "-1 or at least 1")
        require(self.fsdp >= 1, "mesh.fsdp", self.fsdp, "at least 1")
        require(self.tensor >= 1, "mesh.tensor", self.tensor, "at least 1")


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

    def __post_init__(self) -> None:
        """Check what spans sections."""
        require(
            self.sample.steps <= self.diffusion.timesteps,
            "sample.steps",
            self.sample.steps,
            f"at most diffusion.timesteps = {self.diffusion.timesteps}",
        )
        require(
            self.diffusion.self_cond_rate == 0 or self.model.self_conditioning,
            "diffusion.self_cond_rate",
            self.diffusion.self_cond_rate,
            "0, or switch on --model.self-conditioning",
        )
        require(
            not self.model.mean_embed,
            "model.mean_embed",
            self.model.mean_embed,
            "False: runs of DiffuSeq-v2 are not offered yet, its loss is (losses.diffusion_loss)",
        )

    def to_json(self) -> str:
        """Return the configuration as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"
