"""How well a noise-aware classifier sees through the noise: accuracy in bins of t."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.evaluate.drawing import Curve, draw_curves
from diffusion_jax.models.classifier import Classifier
from diffusion_jax.text.loader import EvalLoader, RowTable
from diffusion_jax.train.classifier_loss import Views, label_scores
from diffusion_jax.types import Params

NUM_BINS = 10
# The first class that says something: a value that is not "absent", a tag of a word, a constituent.
FIRST_CONTENT = {"attribute": 1, "pos": 4, "tree": 1}


@dataclass(frozen=True)
class NoiseBin:
    """What was measured at one noise level.

    Attributes:
        first_t: smallest t of the bin; -1 for clean latents.
        last_t: largest t.
        nll: cross-entropy, nats per label.
        accuracy: share of all labels that are guessed right.
        content_accuracy: share of the labels that say something (values that are not "absent",
            tags of words, constituents).
    """

    first_t: int
    last_t: int
    nll: float
    accuracy: float
    content_accuracy: float


@dataclass(frozen=True)
class NoiseAccuracy:
    """Accuracy of a classifier by noise level.

    Attributes:
        task: of the classifier.
        rows: held-out rows that were read.
        num_timesteps: T.
        bins: clean latents first, then bins of t of equal width.
    """

    task: str
    rows: int
    num_timesteps: int
    bins: tuple[NoiseBin, ...]

    def to_json(self) -> str:
        """Return everything as indented JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def lines(self) -> list[str]:
        """Return a table for people."""
        rows = [f"accuracy of the {self.task} classifier on {self.rows} held-out rows"]
        rows.append(f"{'t':>12}  {'nats/label':>10}  {'all labels':>10}  {'content':>8}")
        for part in self.bins:
            name = "clean" if part.first_t < 0 else f"{part.first_t}-{part.last_t}"
            rows.append(
                f"{name:>12}  {part.nll:10.4f}  {part.accuracy:10.1%}  {part.content_accuracy:8.1%}"
            )
        return rows

    def to_svg(self) -> str:
        """Return a drawing of accuracy against t / T."""
        noisy = [part for part in self.bins if part.first_t >= 0]
        centres = [(p.first_t + p.last_t + 1) / 2 / self.num_timesteps for p in noisy]
        return draw_curves(
            f"{self.task}: accuracy by noise level",
            "t / T",
            "accuracy",
            [
                Curve("all labels", centres, [part.accuracy for part in noisy]),
                Curve("content", centres, [part.content_accuracy for part in noisy]),
            ],
        )


def accuracy_by_noise(
    classifier: Classifier,
    params: Params,
    views: Views,
    frozen: Params,
    table: RowTable,
    task: str,
    *,
    num_timesteps: int,
    slices: Sequence[tuple[int, int]] | None = None,
    num_bins: int = NUM_BINS,
    batch_size: int = 64,
    seed: int = 0,
) -> NoiseAccuracy:
    """Measure a classifier on held-out rows, each once in every bin of t and once without noise.

    Args:
        classifier: the network.
        params: its parameters.
        views: what it is shown of a text.
        frozen: what ``views`` needs of the run it was trained on.
        table: rows with ``targets``.
        task: "attribute", "pos" or "tree".
        num_timesteps: T.
        slices: of the fields, for "attribute".
        num_bins: bins of t of equal width.
        batch_size: rows per compiled call.
        seed: of the noise.
    """
    edges = np.linspace(0, num_timesteps, num_bins + 1).astype(int)

    @jax.jit
    def count(
        params: Params,
        frozen: Params,
        batch: Any,
        key: jax.Array,
        first: jax.Array,
        stop: jax.Array,
    ):
        noise_key, time_key = jax.random.split(key)
        clean = jnp.broadcast_to(first < 0, batch["weight"].shape)
        t = jax.random.randint(time_key, clean.shape, jnp.maximum(first, 0), stop)
        x, time = views(noise_key, frozen, batch["input_ids"], t, clean)
        logits = classifier.logits(params, x, time)
        nll, guess, given = label_scores(logits, batch["targets"], slices)
        weight = batch["weight"].reshape(-1, *([1] * (given.ndim - 1)))
        given = given * weight
        content = given * (batch["targets"] >= FIRST_CONTENT[task])
        right = guess == batch["targets"]
        sums = (given * nll, given * right, given, content * right, content)
        return jnp.stack([jnp.sum(part) for part in sums])

    batches = EvalLoader(table, batch_size)
    root = jax.random.key(seed)
    bins = []
    for number, (first, stop) in enumerate([(-1, 1), *pairwise(edges)]):
        key = jax.random.fold_in(root, number)
        sums = np.zeros(5)
        for index in range(len(batches)):
            batch = batches.batch_at(index)
            batch_key = jax.random.fold_in(key, index)
            found = count(params, frozen, batch, batch_key, int(first), int(stop))
            sums += np.asarray(found, np.float64)
        nll, right, given, content_right, content = map(float, sums)
        last = -1 if first < 0 else int(stop) - 1
        bins.append(
            NoiseBin(
                int(first),
                last,
                nll / max(given, 1),
                right / max(given, 1),
                content_right / max(content, 1),
            )
        )
    return NoiseAccuracy(task, len(table), num_timesteps, tuple(bins))
