"""Train a noise-aware classifier on the embeddings and the noise of a trained run."""

import contextlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from diffusion_jax.classifier_run import (
    TrainedClassifier,
    base_fingerprint,
    check_steerable,
    read_labels,
)
from diffusion_jax.config import (
    ClassifierRunConfig,
    DataConfig,
    ExperimentConfig,
    MeshConfig,
    OptimConfig,
    TrainConfig,
)
from diffusion_jax.config.control import (
    BEST_READS,
    CLASSIFIER_OPTIM,
    CLASSIFIER_TRAIN,
    Attributes,
    Reads,
)
from diffusion_jax.evaluate.noise_accuracy import NoiseAccuracy, accuracy_by_noise
from diffusion_jax.experiment import open_corpora
from diffusion_jax.models.base import Model
from diffusion_jax.models.classifier import Classifier, noise_aware_classifier
from diffusion_jax.models.shape import ClassifierConfig, TransformerShape
from diffusion_jax.models.transformer import transformer_denoiser
from diffusion_jax.scale.agreement import together
from diffusion_jax.scale.mesh import check_batch_size, make_mesh
from diffusion_jax.schedules import make_schedule
from diffusion_jax.text.labelled import LabelledRows, build_labelled
from diffusion_jax.text.labels import AttributeLabels, LabelSet, collect_labels, labels_to_json
from diffusion_jax.text.rows import Packing
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.timesteps import stratified
from diffusion_jax.train.classifier_loss import (
    Views,
    denoiser_estimates,
    make_classifier_loss,
    noisy_states,
)
from diffusion_jax.train.loop import FitResult
from diffusion_jax.train.metrics import require_tensorboard
from diffusion_jax.train.progress import ProgressReport
from diffusion_jax.training_run import (
    Frozen,
    Learner,
    averaged_params,
    configured_optimizer,
    make_learner,
    place_learner,
    run_training,
    start_run,
    validation_hooks,
)
from diffusion_jax.types import Params
from diffusion_jax.workdir import Workdir

ACCURACY_FILE = "accuracy.json"
DRAWING_FILE = "accuracy.svg"


class ClassifierResult(NamedTuple):
    """What a training leaves in memory.

    Attributes:
        trained: the classifier with averaged parameters.
        fit: how the run ended.
        accuracy: by noise level on held-out rows; None where there are none, or where a signal
            stopped the run.
    """

    trained: TrainedClassifier
    fit: FitResult
    accuracy: NoiseAccuracy | None


@dataclass(frozen=True)
class BaseRun:
    """The run that a classifier is trained on.

    Attributes:
        path: its directory.
        config: its configuration.
        tokenizer: its tokenizer.
        model: its denoiser.
        params: the denoiser's parameters.
    """

    path: Path
    config: ExperimentConfig
    tokenizer: Tokenizer
    model: Model
    params: Params

    def views(self, reads: Reads) -> tuple[Views, Frozen]:
        """Return what a classifier is shown of a text, and the parameters that this needs."""
        diffusion = self.config.diffusion
        schedule = make_schedule(diffusion.schedule, diffusion.timesteps)
        if reads == "state":
            # As the denoiser uses it.
            table = np.asarray(self.model.head(self.params).weight, np.float32)
            frozen = Frozen({"embedding": table}, {"embedding": ("vocab", None)})
            return noisy_states(schedule), frozen
        views = denoiser_estimates(
            self.model, schedule, self_condition=self.config.model.self_conditioning
        )
        return views, Frozen(self.params, self.model.logical_axes())


def read_base(checkpoint: str | Path, *, weights: str = "ema", step: int | None = None) -> BaseRun:
    """Read what a classifier needs of a run.

    Args:
        checkpoint: its directory.
        weights: of the denoiser, see ``Workdir.read_params``.
        step: which checkpoint; None is the newest that is intact.

    Raises:
        UserError: no run, a damaged one, or one that cannot be steered (``check_steerable``).
    """
    directory = Workdir(checkpoint)
    config = directory.read_config()
    check_steerable(checkpoint, config)
    params = directory.read_params(config, weights=weights, step=step)
    model = transformer_denoiser(config.model)
    return BaseRun(directory.path, config, directory.read_tokenizer(), model, params)


def classifier_config(
    task: str,
    base: BaseRun,
    *,
    reads: Reads | None = None,
    attributes: Attributes = "given",
    data: DataConfig | None = None,
    shape: TransformerShape | None = None,
    optim: OptimConfig = CLASSIFIER_OPTIM,
    train: TrainConfig = CLASSIFIER_TRAIN,
    mesh: MeshConfig | None = None,
) -> ClassifierRunConfig:
    """Return the configuration of a training; the number of classes is filled in by ``train``.

    Args:
        task: "attribute", "pos" or "tree".
        base: the run to steer.
        reads: what it is shown, see ``ClassifierRunConfig``; default what steers better.
        attributes: whose labels of a text count, see ``ClassifierRunConfig``.
        data: labelled corpus; default the run's own.
        shape: of the Transformer.
        optim: optimiser.
        train: the loop.
        mesh: devices.

    Raises:
        UserError: a value out of range.
    """
    reads = reads or BEST_READS[task]
    values = {"task": task, "embed_dim": base.config.model.embed_dim}
    model = ClassifierConfig(
        **asdict(shape or TransformerShape()), **values, max_length=base.config.data.length
    )
    data = data or base.config.data
    # Rows are the run's own; labelled ones are held in memory.
    kept = base.config.data
    data = replace(data, length=kept.length, packing=kept.packing, cache="")
    return ClassifierRunConfig(
        name=f"{base.config.name}-{task}",
        checkpoint=str(base.path),
        fingerprint=base_fingerprint(base.params, base.config, reads),
        reads=reads,
        attributes=attributes,
        schedule=base.config.diffusion.schedule,
        timesteps=base.config.diffusion.timesteps,
        data=data,
        model=model,
        optim=optim,
        train=train,
        mesh=mesh or MeshConfig(),
    )


def other_corpus(data: DataConfig, corpus: str) -> DataConfig:
    """Return the data of a run with another corpus, of which there is no validation.

    What the run says about its own files does not hold for the other. Rows are still the run's:
    their length, and the newline that ends a text.
    """
    return replace(data, corpus=corpus, validation="", format="auto", columns=(), where=(), size=0)


def train_classifier(
    config: ClassifierRunConfig,
    base: BaseRun,
    workdir: str | Path,
    *,
    resume: bool = False,
    report: ProgressReport | None = None,
) -> ClassifierResult:
    """Train, or go on training, a classifier; keep everything in ``workdir``.

    Args:
        config: as from ``classifier_config``.
        base: the run to steer.
        workdir: directory of the classifier; new or empty, unless ``resume``.
        resume: continue from the newest intact checkpoint; starts where there is none.
        report: where progress goes; default standard error.

    Raises:
        UserError: anything wrong with data, labels, configuration or directory, before any
            compilation.
    """
    directory = Workdir(workdir)
    with contextlib.ExitStack() as held:
        with together():
            going_on = resume and directory.is_run()
            if not going_on:
                directory.check_unused()
            mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
            check_batch_size(mesh, config.train.batch_size, config.train.microbatches)
            labels = read_labels(directory) if going_on else None
            labels, rows, held_out = _labelled(config, base.tokenizer, labels)
            config = replace(config, model=replace(config.model, num_classes=labels.num_classes))
            if going_on:
                directory.check_same_run(config)
                directory.check_same_data(rows.checksum)
            if config.train.tensorboard:
                require_tensorboard()
            classifier = noise_aware_classifier(config.model)
            placed = place_learner(_learner(config, classifier, base, labels), mesh)
        # All that can be wrong with the input has been looked at: now the disk may change.
        start_run(
            directory,
            config,
            base.tokenizer,
            held,
            going_on=going_on,
            checksum=rows.checksum,
            labels=labels_to_json(labels),
        )
        report = report or ProgressReport()
        report.print(config.to_json().rstrip())
        report.print(f"{labels.num_classes} classes; training on {rows.report}")
        result = run_training(
            directory,
            placed,
            rows,
            tokenizer=base.tokenizer,
            report=report,
            state_hooks=lambda outputs: validation_hooks(placed, held_out, outputs),
            dtype=config.model.dtype,
        )
    params = averaged_params(config.train, result.state)
    trained = TrainedClassifier(config, labels, classifier, params, base.tokenizer, directory.path)
    accuracy = None
    if held_out is not None and result.stopped_by is None:
        accuracy = measure(trained, base, held_out)
        write_accuracy(directory, accuracy)
    return ClassifierResult(trained, result, accuracy)


def field_slices(labels: LabelSet) -> list[tuple[int, int]] | None:
    """Return (first, one past the last) logit of each field, or None for the other tasks."""
    if not isinstance(labels, AttributeLabels):
        return None
    return [(part.start, part.stop) for part in labels.slices.values()]


def measure(trained: TrainedClassifier, base: BaseRun, rows: LabelledRows) -> NoiseAccuracy:
    """Measure a classifier on held-out rows by noise level."""
    params: Params = jax.device_put(jax.device_get(trained.params))
    views, frozen = base.views(trained.config.reads)
    return accuracy_by_noise(
        trained.classifier,
        params,
        views,
        jax.device_put(frozen.params),
        rows,
        trained.task,
        num_timesteps=trained.config.timesteps,
        slices=field_slices(trained.labels),
    )


def write_accuracy(directory: Workdir, accuracy: NoiseAccuracy) -> None:
    """Write the figures and their drawing beside the checkpoints."""
    if jax.process_index() == 0:
        (directory.path / ACCURACY_FILE).write_text(accuracy.to_json(), encoding="utf-8")
        (directory.path / DRAWING_FILE).write_text(accuracy.to_svg(), encoding="utf-8")


def _labelled(
    config: ClassifierRunConfig, tokenizer: Tokenizer, labels: LabelSet | None
) -> tuple[LabelSet, LabelledRows, LabelledRows | None]:
    """Open the corpora; collect the labels where none are given."""
    corpus, validation = open_corpora(config.data)
    packing = Packing(config.data.length, config.data.packing, config.data.on_long)
    labels = labels or collect_labels(config.model.task, iter(corpus), corpus.describe)
    options = {"as_said": config.attributes == "said"}
    train_rows = build_labelled(corpus, tokenizer, packing, labels, **options)
    held_out = validation and build_labelled(validation, tokenizer, packing, labels, **options)
    return labels, train_rows, held_out


def _learner(
    config: ClassifierRunConfig, classifier: Classifier, base: BaseRun, labels: LabelSet
) -> Learner:
    views, frozen = base.views(config.reads)
    loss = make_classifier_loss(
        classifier,
        views,
        slices=field_slices(labels),
        clean_rate=config.clean_rate,
    )
    return make_learner(
        classifier.init,
        classifier.logical_axes,
        loss,
        stratified(config.timesteps),
        config.timesteps,
        configured_optimizer(config.optim, config.train.steps),
        config.train,
        frozen,
    )
