"""``diffusion-jax train-ar``: the autoregressive Transformer, judge of fluency and baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from diffusion_jax.cli.options import parse
from diffusion_jax.cli.train_classifier import with_steps, with_warmup
from diffusion_jax.config import (
    AutoregressiveRunConfig,
    DataConfig,
    MeshConfig,
    OptimConfig,
    TokenizerConfig,
    TrainConfig,
)
from diffusion_jax.config.control import AUTOREGRESSIVE_OPTIM, AUTOREGRESSIVE_TRAIN
from diffusion_jax.errors import UserError
from diffusion_jax.models.shape import AutoregressiveConfig, TransformerShape


@dataclass(frozen=True)
class TrainArCommand:
    """Train an autoregressive Transformer: the teacher that judges fluency, and the baseline.

    It learns single texts, targets of sources (--data.task pair), or, with --prefix, texts after a
    control made of their labels. diffusion-jax score measures texts with it.

    Example: diffusion-jax train-ar --like runs/e2e --workdir runs/e2e-teacher

    Attributes:
        workdir: directory of the run, new or empty.
        like: take corpus, rows and tokenizer from this run of a diffusion model.
        corpus: training corpus, short for --data.corpus.
        prefix: the control before each text: "attributes", "pos", "length" or "tree"; the corpus
            must have these labels.
        steps: training steps, short for --train.steps.
        resume: continue the run in the work directory.
        data: what is read.
        tokenizer: how text becomes ids.
        model: the Transformer.
        optim: optimiser.
        train: the loop.
        mesh: devices.
    """

    workdir: Annotated[str, tyro.conf.arg(aliases=["-w"])]
    like: str | None = None
    corpus: str | None = None
    prefix: Literal["none", "attributes", "pos", "length", "tree"] = "none"
    steps: int | None = None
    resume: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: TransformerShape = field(default_factory=TransformerShape)
    optim: OptimConfig = AUTOREGRESSIVE_OPTIM
    train: TrainConfig = AUTOREGRESSIVE_TRAIN
    mesh: MeshConfig = field(default_factory=MeshConfig)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(TrainArCommand, "train-ar", arguments)
    options = with_steps(command.train, command.steps, AUTOREGRESSIVE_TRAIN)
    data, tokenizer = command.data, None
    if command.like is not None and (data, command.tokenizer) != (DataConfig(), TokenizerConfig()):
        raise UserError("--like takes data and tokenizer from a run; leave out --data, --tokenizer")
    if command.corpus is not None:
        if data.corpus not in (DataConfig().corpus, command.corpus):
            raise UserError("--corpus and --data.corpus differ; give one of them")
        data = replace(data, corpus=command.corpus)
    from dataclasses import asdict

    from diffusion_jax.autoregressive_run import train_autoregressive
    from diffusion_jax.workdir import Workdir

    text = command.tokenizer
    if command.like is not None:
        directory = Workdir(command.like)
        run = directory.read_config()
        data, text = run.data, run.tokenizer
        if command.corpus is not None:
            data = replace(data, corpus=command.corpus, validation="", format="auto")
        # Words of a control are not among those of the run.
        tokenizer = directory.read_tokenizer() if command.prefix == "none" else None
    config = AutoregressiveRunConfig(
        data=data,
        prefix=command.prefix,
        tokenizer=text,
        model=AutoregressiveConfig(**asdict(command.model)),
        optim=with_warmup(command.optim, options, AUTOREGRESSIVE_OPTIM),
        train=options,
        mesh=command.mesh,
    )
    train_autoregressive(config, command.workdir, tokenizer=tokenizer, resume=command.resume)
    return 0
