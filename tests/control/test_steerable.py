"""Runs whose chains the classifiers and guides do not know are refused before anything is read."""

from dataclasses import replace

import numpy as np
import pytest

from diffusion_jax.classifier_run import check_steerable
from diffusion_jax.config import DataConfig, DiffusionConfig, ExperimentConfig
from diffusion_jax.errors import UserError
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.text.labelled import LabelledRows
from diffusion_jax.text.labels import TagLabels

PLAIN = ExperimentConfig()


def test_single_texts_can_be_steered():
    check_steerable("run", PLAIN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": DataConfig(task="pair")}, "targets for sources"),
        ({"data": DataConfig(packing="block")}, "blocks of running text"),
        ({"model": DenoiserConfig(mean_embed=True)}, "absorbing state"),
        ({"diffusion": DiffusionConfig(position_schedule="adaptive")}, "every position"),
    ],
)
def test_what_cannot_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        check_steerable("run", replace(PLAIN, **changes))


def test_labelled_rows_are_known_by_their_checksum():
    ids = np.arange(6, dtype=np.int32).reshape(2, 3)
    labels = TagLabels()

    def checksum(ids, tags):
        return LabelledRows(labels, ids, tags, None).checksum

    own = checksum(ids, ids % 2)
    assert own == checksum(ids.copy(), ids % 2)
    assert own != checksum(ids[::-1], (ids % 2)[::-1])
    assert own != checksum(ids, (ids + 1) % 2)
    assert checksum(ids, [((0, 1, 0),), ()]) != checksum(ids, [((0, 1, 1),), ()])
