"""How many tokens the holes of a template are tried with."""

import itertools
import time

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.text.templates import Template, layouts


def template(*masks):
    """Return a template of one word, holes and single words between them."""
    return Template(((7,),) * (len(masks) + 1), masks)


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
