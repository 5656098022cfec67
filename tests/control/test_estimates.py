"""Classifiers that read the denoiser's estimates: what they are asked, and what they fit."""

import dataclasses

import jax
import pytest

from diffusion_jax.config import GuidanceConfig
from diffusion_jax.control import compose
from diffusion_jax.control.steer import Controller
from diffusion_jax.errors import UserError
from diffusion_jax.guidance import on_estimate
from tests.control.conftest import untrained_classifier
from tests.control.test_steer import TAGS, one_guided_step


def test_a_classifier_of_estimates_is_asked_about_them(controller, monkeypatch):
    """It is told the noise of the state that the estimate is of, and never shown the state."""
    reader = untrained_classifier(controller.generator, "pos", reads="estimate")
    both = {**controller.classifiers, "pos": reader}
    reading = dataclasses.replace(controller, classifiers=both)
    told = []
    monkeypatch.setattr(
        compose,
        "on_estimate",
        lambda *arguments, tell_time, **options: (
            told.append(tell_time) or on_estimate(*arguments, tell_time=tell_time, **options)
        ),
    )
    one_guided_step(reading, TAGS, method="auto")
    assert told == [False, True]
    for method in ("adagrad", "gradient"):
        with pytest.raises(UserError, match=r"pos classifier reads.*--guidance.through denoiser"):
            Controller.build(reading.generator, both, GuidanceConfig(method=method), reading.holes)


def test_a_classifier_of_estimates_fits_its_denoiser_alone(controller):
    params, config = controller.params, controller.config
    reader = untrained_classifier(controller.generator, "pos", reads="estimate")
    reader.check_fits(params, config)
    moved = {**params, "network": jax.tree.map(lambda x: x + 1e-3, params["network"])}
    controller.classifiers["pos"].check_fits(moved, config)
    with pytest.raises(UserError, match="estimates of another denoiser"):
        reader.check_fits(moved, config)
