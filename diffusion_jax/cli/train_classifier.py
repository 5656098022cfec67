"""``diffusion-jax train-classifier``: what steers a trained model towards a wish."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from diffusion_jax.cli.options import parse
from diffusion_jax.config import MeshConfig, OptimConfig, TrainConfig
from diffusion_jax.config.control import CLASSIFIER_OPTIM, CLASSIFIER_TRAIN, Attributes, Reads
from diffusion_jax.errors import UserError
from diffusion_jax.models.shape import TransformerShape

Format = Literal["auto", "lines", "e2e", "stars", "csv", "jsonl"]


@dataclass(frozen=True)
class TrainClassifierCommand:
    """Train a noise-aware classifier on what a trained model makes of noisy texts.

    Labels come with the corpus: the built-in grammar has them all, E2E files have attributes, and
    JSON lines bring them as fields beside "text": "attributes" (an object), "pos" (a list of
    Universal POS tags, one for each word), "tree" (brackets) or "spans" (a list of [start, end,
    label], end included). Accuracy by noise level is printed, and kept with a drawing in the work
    directory. diffusion-jax label makes such files with spaCy and benepar.

    Example: diffusion-jax train-classifier --task pos --checkpoint runs/e2e --workdir runs/e2e-pos

    Attributes:
        task: "attribute": a value for each field; "pos": a tag for each word; "tree": a label for
            each span of words.
        checkpoint: the --workdir of the model to steer.
        workdir: directory of the classifier, new or empty.
        reads: what it is shown: "estimate", the model's estimate of the text; "state", the noisy
            embeddings, as published. Default: what steers better, "state" for trees alone.
        attributes: whose labels of a text count: "given", those of the corpus; "said", what its
            words say, as evaluate-control judges: texts of E2E leave out, or say otherwise, a good
            part of what they were written for.
        corpus: labelled corpus; default the model's own. Its texts get the newline at the end that
            the model's have (data.keep_newline).
        validation: held-out labelled corpus; default the validation split, where there is one.
        format: how to read the files.
        size: read at most this many examples; default as the model's run.
        validation_size: likewise for validation.
        weights: of the model: "ema", "ema RATE" or "params" (not averaged).
        checkpoint_step: which of its checkpoints; None is the newest that is intact.
        steps: training steps, short for --train.steps.
        resume: continue the run in the work directory.
        model: the Transformer.
        optim: optimiser.
        train: the loop.
        mesh: devices.
    """

    task: Literal["attribute", "pos", "tree"]
    checkpoint: Annotated[str, tyro.conf.arg(aliases=["-c"])]
    workdir: Annotated[str, tyro.conf.arg(aliases=["-w"])]
    reads: Reads | None = None
    attributes: Attributes = "given"
    corpus: str | None = None
    validation: str | None = None
    format: Format | None = None
    size: int | None = None
    validation_size: int | None = None
    weights: str = "ema"
    checkpoint_step: int | None = None
    steps: int | None = None
    resume: bool = False
    model: TransformerShape = field(default_factory=TransformerShape)
    optim: OptimConfig = CLASSIFIER_OPTIM
    train: TrainConfig = CLASSIFIER_TRAIN
    mesh: MeshConfig = field(default_factory=MeshConfig)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(TrainClassifierCommand, "train-classifier", arguments)
    options = with_steps(command.train, command.steps, CLASSIFIER_TRAIN)
    from diffusion_jax.classifier_training import (
        classifier_config,
        other_corpus,
        read_base,
        train_classifier,
    )

    base = read_base(command.checkpoint, weights=command.weights, step=command.checkpoint_step)
    changes = {
        name: getattr(command, name)
        for name in ("validation", "format", "size", "validation_size")
        if getattr(command, name) is not None
    }
    data = base.config.data
    if command.corpus is not None:
        data = other_corpus(data, command.corpus)
    config = classifier_config(
        command.task,
        base,
        reads=command.reads,
        attributes=command.attributes,
        data=replace(data, **changes),
        shape=command.model,
        optim=with_warmup(command.optim, options, CLASSIFIER_OPTIM),
        train=options,
        mesh=command.mesh,
    )
    result = train_classifier(config, base, command.workdir, resume=command.resume)
    if result.accuracy is not None:
        print("\n".join(result.accuracy.lines()))
    return 0


def with_steps(train: TrainConfig, steps: int | None, default: TrainConfig) -> TrainConfig:
    """Return the loop with the number of steps that the short option names.

    Raises:
        UserError: both options were given.
    """
    if steps is None:
        return train
    if train.steps not in (default.steps, steps):
        raise UserError(f"--steps is {steps} and --train.steps is {train.steps}; give one of them")
    return replace(train, steps=steps)


def with_warmup(optim: OptimConfig, train: TrainConfig, default: OptimConfig) -> OptimConfig:
    """Return the optimiser with a default warm-up that a short run has room for."""
    if optim.warmup_steps != default.warmup_steps:
        return optim
    return replace(optim, warmup_steps=min(optim.warmup_steps, train.steps // 10))
