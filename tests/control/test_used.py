"""Nothing that a user gives is without effect: it acts, or it is refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffusion_jax.config import GuidanceConfig
from diffusion_jax.control.used import check_all_used, guided_kinds
from diffusion_jax.control.wishes import plan_wishes
from diffusion_jax.errors import UserError
from diffusion_jax.text.control_targets import Target

FOOD = Target(attributes={"food": "thai"})
SPAN = Target(spans=((1, 2, "NP"),))
HOLE = Target(keep="the ___ .")


def classifiers(*tasks, reads_estimates=True):
    return {
        task: SimpleNamespace(path=f"runs/{task}", reads_estimates=reads_estimates)
        for task in tasks
    }


def check(targets, options, told=None, *, draws_noise=True):
    check_all_used(GuidanceConfig(**options), told or {}, targets, draws_noise=draws_noise)


def test_a_classifier_that_nothing_needs_is_refused():
    told = classifiers("attribute")
    check([Target(length=5), FOOD], {}, told)
    with pytest.raises(UserError, match="runs/attribute tells attribute, and nothing"):
        check([Target(length=5)], {}, told)


@pytest.mark.parametrize(
    ("target", "option"),
    [
        # A length and given words are put in place.
        (Target(length=6), {"word_weight": 7.0}),
        (Target(length=6), {"keep_by": "gradient"}),
        (Target(length=6), {"scale": 3.0}),
        (Target(length=6), {"lowest": 0.2}),
        (Target(length=6), {"method": "adagrad"}),
        (HOLE, {"length_by": "gradient"}),
        (HOLE, {"scale": 50.0}),
        (HOLE, {"learning_rate": 3.0, "length_by": "anchor"}),
        (FOOD, {"length_by": "gradient"}),
        # With a classifier of estimates, attributes go by the gradient alone.
        (FOOD, {"updates": 0}),
        (FOOD, {"fluency_weight": 0.1}),
        (FOOD, {"span_weight": 2.0}),
        (SPAN, {"tree_weight": 2.0}),
    ],
    ids=str,
)
def test_an_option_without_effect_is_refused(target, option):
    told = classifiers("attribute") if target.attributes else classifiers("tree")
    told = {} if target.keep or target.length else told
    name = next(iter(option)).replace("_", "-")
    with pytest.raises(UserError, match=rf"--guidance\.{name} .* does nothing"):
        check([target], option, told)


@pytest.mark.parametrize(
    ("target", "option"),
    [
        (Target(length=6), {"length_by": "gradient", "word_weight": 7.0, "learning_rate": 0.2}),
        (HOLE, {"keep_by": "gradient", "word_weight": 2.0, "lowest": 0.1}),
        (FOOD, {"scale": 3.0, "attribute_weight": 2.0}),
        (FOOD, {"method": "adagrad", "through": "denoiser", "updates": 0}),
        (SPAN, {"span_weight": 2.0, "highest": 0.9}),
        (Target(keywords=("serves",)), {"keyword_weight": 2.0, "scale": 3.0}),
        (Target(keywords=("serves",)), {"method": "adagrad", "learning_rate": 0.2}),
    ],
    ids=str,
)
def test_an_option_with_an_effect_is_not(target, option):
    told = classifiers("attribute") if target.attributes else {}
    check([target], option, told)


def test_without_noise_attributes_go_by_adagrad():
    check([FOOD], {"updates": 1}, classifiers("attribute"), draws_noise=False)
    with pytest.raises(UserError, match=r"scale .* steered by adagrad"):
        check([FOOD], {"scale": 3.0}, classifiers("attribute"), draws_noise=False)


@pytest.mark.parametrize("by", ["anchor", "gradient"])
def test_the_kinds_are_those_of_the_arrays(controller, by):
    options = GuidanceConfig(length_by=by, keep_by=by)
    targets = [
        Target(length=6),
        FOOD,
        SPAN,
        HOLE,
        Target(tree="(S (NP the pub) (VP is nice))"),
        Target(pos=("DET", "*")),
        Target(keywords=("serves",), keep="the ___ ."),
        Target(keywords=("serves",), attributes={"food": "thai"}, length=7),
    ]
    for target in targets:
        plan = controller.layouts(target)[-1]
        wishes = plan_wishes(
            plan, controller.classifiers, controller.tokenizer, controller.length, options
        )
        guided = {kind for kind, wish in wishes.items() if np.any(wish.targets != -1)}
        assert guided_kinds([target], options) == guided == set(wishes)
