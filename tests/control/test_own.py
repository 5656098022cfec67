"""A user's own log-probability steers beside the other controls; tokens tell what is complete."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.classifier_run import TrainedClassifier
from diffusion_jax.control.candidate import is_complete
from diffusion_jax.control.wishes import Plan
from diffusion_jax.rounding import token_nll
from diffusion_jax.text.control_targets import Target, make_target
from diffusion_jax.text.packing import pack_text

PLACE = 3


@pytest.fixture(scope="module")
def says_thai(controller):
    """Return log_prob: that the word at one position is "thai"."""
    head, ids = controller.model.head(controller.params), controller.tokenizer.encode("thai")
    return lambda x, time: -token_nll(head, x[:, PLACE], jnp.full(x.shape[0], ids[0]))


@pytest.mark.slow
@pytest.mark.parametrize("asked", [Target(), make_target(length=6)], ids=["alone", "composed"])
def test_every_text_climbs_it(controller, says_thai, asked):
    strong = controller.with_options(
        method="adagrad", through="classifier", learning_rate=0.5, updates=10, fluency_weight=0.0
    ).steered_by(says_thai)
    candidates = next(strong.write([asked], 4))
    if asked.length:
        assert [candidate.text.split()[PLACE - 1] for candidate in candidates] == ["thai"] * 4
    # It is told of the final words, and counts when the best is chosen.
    found = [candidate.log_probs["own"] for candidate in candidates]
    ids = jnp.asarray([controller.tokenizer.encode("thai") * (PLACE + 1)])
    word = controller.model.embed(controller.params, ids)
    np.testing.assert_allclose(found, says_thai(word, None)[0], rtol=1e-4)
    free = next(controller.write_plans([[Plan(asked)] * 4]))
    still = next(strong.steered_by(says_thai, weight=0.0).write([asked], 4))
    assert [c.text for c in still] == [c.text for c in free]


def test_it_stays_when_other_things_change(controller, says_thai):
    own = controller.steered_by(says_thai, weight=2.0)
    assert own.with_options(updates=1).own == own.own
    assert own.own.weight == 2.0
    assert controller.own is None


@pytest.mark.parametrize(
    ("asked", "text", "complete"),
    [
        ({"keywords": ["thai"]}, "the thai pub is nice .", True),
        ({"keywords": ["thai"]}, "the pub is nice .", False),
        ({"keywords": ["thai", "thai"]}, "the thai pub is nice .", False),
        ({"length": 5}, "the pub is nice .", True),
        ({"length": 4}, "the pub is nice .", False),
        ({"pos": "DET NOUN * * PUNCT"}, "the pub is nice .", True),
        ({"pos": "DET NOUN * PUNCT"}, "the pub is nice .", False),
        ({"attributes": ["food=thai"]}, "the pub is nice .", True),
        ({"keep": "the ___ .", "keywords": ["thai"]}, "the thai pub .", True),
        ({"keep": "the ___ .", "keywords": ["thai"]}, "the nice pub .", False),
    ],
)
def test_what_tokens_tell_is_looked_at(controller, asked, text, complete):
    target, words = make_target(**asked), controller.tokenizer
    plan = Plan(target)
    if target.keep:
        template = controller.layouts(target)[0].template
        plan = Plan(target, template, (2,))
    row = pack_text(words.encode(text), controller.length, words)
    assert is_complete(np.asarray(row.input_ids), plan, words) is complete


@pytest.mark.slow
@pytest.mark.parametrize("page", ["control.md", "classifiers.md"])
def test_the_documented_program_runs(page, controller, untrained, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    program = re.sub(r'"runs/(small|e2e)"', repr(str(untrained)), program)
    # The run of these tests has a schedule of 20 steps, and its classifier is not on a disk.
    for asked, known in (("200", "2"), ("Italian", "italian"), ('"pub"', '"thai"')):
        program = program.replace(asked, known)
    told = controller.classifiers["attribute"]
    monkeypatch.setattr(TrainedClassifier, "load", lambda path: told)
    exec(program, {})
    assert len(capsys.readouterr().out.splitlines()) == (10 if page == "control.md" else 50)
