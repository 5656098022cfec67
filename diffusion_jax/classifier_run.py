"""A trained classifier: read from its directory, checked against the model it steers, asked.

directory/config.json    task, sizes, and the fingerprint of the run it was trained on
labels.json    what it tells apart
tokenizer/     that of the run
checkpoints/   see scale.checkpoint
accuracy.json  accuracy by noise level, drawn in accuracy.svg
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.config import ClassifierRunConfig, ExperimentConfig
from diffusion_jax.config.control import Reads
from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.trees import best_tree
from diffusion_jax.guidance import classifiers
from diffusion_jax.models.classifier import Classifier, noise_aware_classifier
from diffusion_jax.text.labels import (
    FREE,
    AttributeLabels,
    LabelSet,
    SpanLabels,
    TagLabels,
    labels_from_json,
)
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.text.trees import Span
from diffusion_jax.types import LogProbFn, Params
from diffusion_jax.workdir import Workdir, params_digest

Labels = TypeVar("Labels", AttributeLabels, TagLabels, SpanLabels)


def check_steerable(path: str | Path, config: ExperimentConfig) -> None:
    """Raise UserError for a run whose chains the classifiers and guides do not know.

    Args:
        path: of the run, for the message.
        config: of the run.
    """
    if config.data.task == "pair":
        reason = "writes targets for sources; control and infill steer models of single texts"
    elif config.data.packing == "block":
        reason = (
            "was trained on blocks of running text (data.packing block), which have no ends: its "
            "texts have no length to hold and no padding"
        )
    elif config.model.mean_embed:
        reason = (
            "walks around a learned absorbing state (model.mean_embed), which classifiers and "
            "guides do not; train one without"
        )
    elif config.diffusion.position_schedule == "adaptive":
        reason = (
            "has a noise level for every position (diffusion.position_schedule adaptive), and "
            "classifiers and guides are told one; train one with shared schedules"
        )
    else:
        return
    raise UserError(f"{path} {reason}")


def base_fingerprint(params: Params, config: ExperimentConfig, reads: Reads) -> str:
    """Return a digest of what a classifier of a denoiser depends on.

    Args:
        params: of the denoiser.
        config: of its run.
        reads: of a classifier. One that reads noisy states fits the embedding table and the noise
            that is added to it, and nothing else; one that reads estimates, the whole denoiser.
    """
    digest = hashlib.sha256(np.asarray(params["embedding"], np.float32).tobytes())
    if reads == "estimate":
        params_digest(params, digest)
    scaled = " normalised" if config.model.normalize_embedding else ""
    noise = f"{config.diffusion.schedule} {config.diffusion.timesteps}"
    digest.update(f"{noise}{scaled}".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier with its parameters and labels.

    To keep the parameters an argument of a compiled function, pass ``params`` through it and use
    ``dataclasses.replace(trained, params=...)`` inside.

    Attributes:
        config: how it was trained.
        labels: what it tells apart: ``AttributeLabels``, ``TagLabels`` or ``SpanLabels``.
        classifier: the network.
        params: its parameters.
        tokenizer: of the run it was trained on.
        path: where it was read from.
    """

    config: ClassifierRunConfig
    labels: LabelSet
    classifier: Classifier
    params: Params
    tokenizer: Tokenizer
    path: Path

    @classmethod
    def load(cls, path: str | Path, *, weights: str = "ema") -> "TrainedClassifier":
        """Read a directory that ``train-classifier`` wrote.

        Args:
            path: the directory.
            weights: "ema" (the first averaged rate), "ema RATE", or "params" (not averaged).

        Raises:
            UserError: it holds no classifier, or is damaged.
        """
        directory = Workdir(path)
        config = directory.read_config(ClassifierRunConfig)
        return cls(
            config=config,
            labels=read_labels(directory),
            classifier=noise_aware_classifier(config.model),
            params=directory.read_params(config, weights=weights),
            tokenizer=directory.read_tokenizer(),
            path=directory.path,
        )

    @property
    def task(self) -> str:
        """What is predicted: "attribute", "pos" or "tree"."""
        return self.config.model.task

    @property
    def reads_estimates(self) -> bool:
        """Whether it reads estimates of ``x_start``; else it reads noisy states."""
        return self.config.reads == "estimate"

    def check_fits(self, params: Params, config: ExperimentConfig) -> None:
        """Raise UserError unless it was trained on this model's embeddings and schedule.

        Args:
            params: of the denoiser that is sampled from.
            config: of its run.
        """
        if base_fingerprint(params, config, self.config.reads) != self.config.fingerprint:
            of = "estimates of another denoiser" if self.reads_estimates else "other embeddings"
            raise UserError(
                f"the classifier in {self.path} was trained on {of} or another noise schedule "
                f"(those of {self.config.checkpoint}) than this model has; train one with "
                f"diffusion-jax train-classifier --task {self.task} --checkpoint RUN"
            )
        if self.config.data.length != config.data.length:
            raise UserError(
                f"the classifier in {self.path} reads rows of {self.config.data.length} "
                f"positions, but this model writes rows of {config.data.length}"
            )

    def logits(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """Return the logits of latents [B, L, E] at time labels [B], see ``models.classifier``."""
        return self.classifier.logits(self.params, x, time)

    def labels_as(self, kind: type[Labels]) -> Labels:
        """Return the labels; raises UserError where the classifier is for another task."""
        if not isinstance(self.labels, kind):
            raise UserError(
                f"the classifier in {self.path} is for the task {self.task!r}, but {kind.task!r} "
                "is asked for"
            )
        return self.labels


def read_labels(directory: Workdir) -> LabelSet:
    """Return the labels of a classifier's directory; raises UserError where there are none."""
    path = directory.labels_file
    try:
        return labels_from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error


def attribute_log_prob(trained: TrainedClassifier, targets: jax.Array | np.ndarray) -> LogProbFn:
    """Return log p(attributes | x, t), to be wrapped by ``guidance.on_latent``.

    Args:
        trained: an "attribute" classifier.
        targets: int [B, F], e.g. from ``attribute_targets``; -1 is free.

    Raises:
        UserError: the classifier is for another task.
    """
    labels = trained.labels_as(AttributeLabels)
    slices = [(part.start, part.stop) for part in labels.slices.values()]
    return classifiers.attribute_log_prob(trained.logits, slices, jnp.asarray(targets))


def pos_log_prob(trained: TrainedClassifier, tags: jax.Array | np.ndarray) -> LogProbFn:
    """Return log p(tags | x, t).

    Args:
        trained: a "pos" classifier.
        tags: int [B, L], e.g. from ``pos_targets``; -1 is free.

    Raises:
        UserError: the classifier is for another task.
    """
    trained.labels_as(TagLabels)
    return classifiers.label_log_prob(trained.logits, jnp.asarray(tags))


def tree_log_prob(trained: TrainedClassifier, chart: jax.Array | np.ndarray) -> LogProbFn:
    """Return log p(span labels | x, t), of a whole tree or of single spans.

    Args:
        trained: a "tree" classifier.
        chart: int [B, L, L], e.g. from ``tree_targets`` or ``span_targets``; -1 is free.

    Raises:
        UserError: the classifier is for another task.
    """
    trained.labels_as(SpanLabels)
    return classifiers.label_log_prob(trained.logits, jnp.asarray(chart))


def attribute_targets(
    trained: TrainedClassifier, rows: Iterable[Mapping[str, str]], *, rest: str | None = None
) -> np.ndarray:
    """Return targets int32 [B, F] for rows of attributes such as ``{"food": "thai"}``.

    Args:
        trained: an "attribute" classifier.
        rows: one mapping per example; the value ``"absent"`` asks that the field is not said.
        rest: None leaves the other fields free, ``"absent"`` asks that none of them is said.

    Raises:
        UserError: unknown field or value (the nearest is named), or another classifier.
    """
    labels = trained.labels_as(AttributeLabels)
    return np.stack([labels.encode(row, rest=rest) for row in rows])


def pos_targets(
    trained: TrainedClassifier, rows: Iterable[Sequence[str]], *, end: bool = True
) -> np.ndarray:
    """Return targets int32 [B, L] for rows of tags, one per token (``"*"``: any).

    Args:
        trained: a "pos" classifier.
        rows: tags of each example.
        end: the text must end after its tags (as published); else what follows is free.

    Raises:
        UserError: unknown tag (the nearest is named), too many, or another classifier.
    """
    labels = trained.labels_as(TagLabels)
    return np.stack([labels.encode(tags, trained.config.data.length, end=end) for tags in rows])


def tree_targets(
    trained: TrainedClassifier, rows: Iterable[tuple[int, Iterable[Span]]]
) -> np.ndarray:
    """Return targets int32 [B, L, L] for whole trees: (number of tokens, spans) of each example.

    Raises:
        UserError: unknown label (the nearest is named), crossing spans, too long, or another
            classifier.
    """
    labels, length = trained.labels_as(SpanLabels), trained.config.data.length
    return np.stack([labels.encode(spans, length, num_tokens=count) for count, spans in rows])


def span_targets(trained: TrainedClassifier, rows: Iterable[Iterable[Span]]) -> np.ndarray:
    """Return targets int32 [B, L, L] for single spans (start, end inclusive, label); rest free.

    Raises:
        UserError: unknown label (the nearest is named), out of range, two labels for one span,
            crossing spans, or another classifier.
    """
    labels, length = trained.labels_as(SpanLabels), trained.config.data.length
    return np.stack([labels.encode(spans, length) for spans in rows])


def read_trees(
    trained: TrainedClassifier, x: jax.Array, time: jax.Array, num_tokens: Sequence[int]
) -> list[tuple[Span, ...]]:
    """Return the consistent bracketing that the classifier sees in each latent.

    Args:
        trained: a "tree" classifier.
        x: float32 [B, L, E].
        time: time labels [B].
        num_tokens: how many tokens stand between START and END in each row.

    Raises:
        UserError: another classifier, or a number of tokens that the rows have no room for.
    """
    labels = trained.labels_as(SpanLabels)
    room = x.shape[1] - 2
    for count in num_tokens:
        if not 1 <= count <= room:
            raise UserError(
                f"a row of {x.shape[1]} positions holds 1 to {room} tokens, not {count}"
            )
    log_probs = np.asarray(jax.nn.log_softmax(trained.logits(x, time), axis=-1))
    charts = [chart[1 : n + 1, 1 : n + 1] for chart, n in zip(log_probs, num_tokens)]
    return [best_tree(chart, labels) for chart in charts]


__all__ = [
    "FREE",
    "TrainedClassifier",
    "attribute_log_prob",
    "attribute_targets",
    "base_fingerprint",
    "pos_log_prob",
    "pos_targets",
    "read_labels",
    "read_trees",
    "span_targets",
    "tree_log_prob",
    "tree_targets",
]
