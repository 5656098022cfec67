"""How many tokens the holes of a template are tried with."""

import itertools
import time

import pytest

from diffusion_jax.config import GuidanceConfig
from diffusion_jax.control.layouts import Holes, lay_out
from diffusion_jax.control.wishes import Plan, plan_wishes
from diffusion_jax.errors import UserError
from diffusion_jax.text.control_targets import make_target
from diffusion_jax.text.templates import Template, layouts
from diffusion_jax.text.tokenizers.word import WordTokenizer

TOKENIZER = WordTokenizer(["the", "pub", "is", "cheap", "thai", "food", "."])


def template(*masks):
    """Return a template of one word, holes and single words between them."""
    return Template(((7,),) * (len(masks) + 1), masks)


def lay(holes=None, max_tokens=16, **asked):
    """Return the layouts of what is asked."""
    plans = lay_out(make_target(**asked), holes or Holes(), TOKENIZER, max_tokens)
    return [plan.layout for plan in plans]


@pytest.mark.parametrize("limit", [None, 1, 2, 7, 64])
@pytest.mark.parametrize(("num_tokens", "min_tokens"), [(None, 0), (None, 13), (15, 0)])
def test_layouts_are_those_of_the_plain_enumeration(limit, num_tokens, min_tokens):
    masks, low, high, room = (1, 2, 1, 1), 1, 4, 20 - 5
    every = itertools.product(*(range(low * n, high * n + 1) for n in masks))
    every = [layout for layout in every if min_tokens <= sum(layout) + 5 <= (num_tokens or 20)]
    if num_tokens is not None:
        every = [layout for layout in every if sum(layout) + 5 == num_tokens]
    every = sorted(every, key=lambda layout: (sum(layout), layout))
    assert max(map(sum, every)) <= room
    if limit is not None and limit < len(every):
        every = [every[round(i * (len(every) - 1) / max(limit - 1, 1))] for i in range(limit)]
    bounds = {"min_hole": low, "max_hole": high, "num_tokens": num_tokens}
    found = layouts(template(*masks), 20, **bounds, min_tokens=min_tokens, limit=limit)
    assert found == every


def test_hundreds_of_holes_cost_nothing():
    start = time.perf_counter()
    found = layouts(template(*[1] * 400), 1022, max_hole=6, limit=64)
    assert time.perf_counter() - start < 5
    assert len(set(found)) == 64
    assert list(map(sum, found)) == sorted(map(sum, found))
    # Exactly the first and the last of more than a float can count.
    assert found[0] == (1,) * 400
    assert found[-1] == (6,) * 44 + (2,) + (1,) * 355
    assert sum(found[-1]) == 1022 - 401


def test_what_the_model_has_no_room_for_is_told_with_its_true_reason():
    with pytest.raises(
        UserError, match=r"10 given words and 9 holes of at least 1 .* take 19, and"
    ):
        layouts(template(*[1] * 9), 16, max_hole=6, limit=64)
    with pytest.raises(
        UserError, match=r"no text of 7 tokens .*: it has 3 to 5; change the bounds"
    ):
        layouts(template(1), 16, max_hole=3, num_tokens=7)
    with pytest.raises(UserError, match="at most 5 tokens, not 6"):
        layouts(template(1), 16, max_hole=3, min_tokens=6)


def test_layouts_without_room_for_the_keywords_are_left_out():
    words = ["thai", "cheap", "pub", "food"]
    assert lay(keep="the ___ .", keywords=words) == [(4,), (5,), (6,)]
    # A word that is given appears already, but only once.
    assert lay(keep="the ___ .", keywords=["the"])[0] == (1,)
    assert lay(keep="the ___ .", keywords=["the", "the", "the"])[0] == (2,)
    with pytest.raises(UserError, match=r"3 tokens beside the given words, .* has room for 1"):
        lay(Holes(max_hole=1), keep="the ___ .", keywords=words[:3])
    with pytest.raises(UserError, match=r"4 tokens beside the given words, .* has room for 3"):
        lay(keep="the ___ .", length=5, keywords=words)


def test_layouts_that_end_before_a_span_are_left_out():
    spans = {"keep": "the ___ .", "spans": ["1:2=NP", "0:5=NP"]}
    assert lay(**spans) == [(4,), (5,), (6,)]
    with pytest.raises(UserError, match=r"span 8:9=PP is not inside the text, .* at most 4 tokens"):
        lay(Holes(max_hole=2), keep="the ___ .", spans=["0:1=NP", "8:9=PP"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"length": 3}, "the keywords are 4 tokens, and the length is 3"),
        ({}, "the keywords are 4 tokens, and this model writes at most 3"),
    ],
)
def test_a_keyword_counts_as_often_as_it_is_asked(asked, message):
    target = make_target(keywords=["the"] * 4, **asked)
    with pytest.raises(UserError, match=message):
        plan_wishes(Plan(target), {}, TOKENIZER, 5, GuidanceConfig())
    target = make_target(keywords=["the"] * 3, **asked)
    wish = plan_wishes(Plan(target), {}, TOKENIZER, 5, GuidanceConfig())["keywords"]
    assert len(wish.targets) == 3
