"""A run and classifiers that no training has to be paid for."""

from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion_jax.classifier_run import TrainedClassifier, base_fingerprint
from diffusion_jax.config import ClassifierRunConfig, DataConfig, GuidanceConfig
from diffusion_jax.control.layouts import Holes
from diffusion_jax.control.steer import Controller
from diffusion_jax.generate import Generator
from diffusion_jax.models.classifier import noise_aware_classifier
from diffusion_jax.models.shape import ClassifierConfig
from diffusion_jax.text.corpora import open_corpus
from diffusion_jax.text.labels import collect_labels
from tests.integration.small import write_untrained


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Return the path of an untrained run on the small grammar; not to be changed."""
    return write_untrained(tmp_path_factory.mktemp("control") / "run", "text")


def untrained_classifier(generator, task, reads="state"):
    """Return a classifier of random parameters that fits a generator."""
    labels = collect_labels(task, open_corpus("grammar:small", size=400), "grammar")
    length = generator.config.data.length
    model = ClassifierConfig(
        task=task,
        num_classes=labels.num_classes,
        embed_dim=generator.config.model.embed_dim,
        max_length=length,
        hidden_dim=8,
        num_layers=1,
        num_heads=2,
        mlp_dim=8,
        time_dim=8,
    )
    classifier = noise_aware_classifier(model)
    random = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: random.normal(0.0, 0.5, leaf.shape).astype(leaf.dtype),
        jax.eval_shape(classifier.init, jax.random.key(0)),
    )
    config = ClassifierRunConfig(
        reads=reads,
        fingerprint=base_fingerprint(generator.params, generator.config, reads),
        data=DataConfig(length=length),
        model=model,
    )
    return TrainedClassifier(config, labels, classifier, params, generator.tokenizer, Path(task))


@pytest.fixture(scope="session")
def controller(untrained):
    """Return an untrained model with an untrained classifier for each task."""
    # Unclamped, so that the last updates reach the words.
    generator = Generator.from_checkpoint(untrained, clamp="none")
    classifiers = {t: untrained_classifier(generator, t) for t in ("attribute", "pos", "tree")}
    # The chain has few steps: guide all of them.
    options = GuidanceConfig(method="adagrad", fluency_weight=0.01, lowest=0.0, learning_rate=0.3)
    return Controller.build(generator, classifiers, options, Holes(max_hole=3))
