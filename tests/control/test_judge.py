"""Judges and tasks: a sentence obeys every target that is drawn from it."""

from itertools import islice, pairwise

import pytest

from diffusion_jax.config import DataConfig
from diffusion_jax.control.judge import (
    Annotation,
    TextJudge,
    Verdict,
    labelled_f1,
    make_judge,
    tag_accuracy,
)
from diffusion_jax.control.measure import rejection, summarise
from diffusion_jax.control.table import table
from diffusion_jax.control.tasks import draw_targets, held_out, parse_task
from diffusion_jax.errors import UserError
from diffusion_jax.text.control_targets import make_target
from diffusion_jax.text.grammar import load_grammar
from diffusion_jax.text.slots import contains, says
from diffusion_jax.text.tokenizers.word import WordTokenizer

TASKS = ("attribute", "pos", "tree", "span", "length", "infill", "attribute+length", "infill+span")


@pytest.fixture(scope="module")
def tokenizer():
    return WordTokenizer(load_grammar("small").vocabulary())


@pytest.fixture(scope="module")
def judge(tokenizer):
    return make_judge("grammar:small", tokenizer)


@pytest.fixture(scope="module")
def corpus():
    return held_out(DataConfig(corpus="grammar:small"), "", 0)


@pytest.mark.parametrize("task", TASKS)
def test_a_sentence_obeys_what_was_drawn_from_it(task, judge, corpus, tokenizer):
    targets = draw_targets(task, corpus, 100, 0, tokenizer)
    own = [judge(target.reference, target) for target in targets]
    assert all(verdict.all_hold() and verdict.fluent for verdict in own)
    others = [judge(a.reference, b) for a, b in pairwise(targets)]
    assert sum(bool(verdict.all_hold()) for verdict in others) < 50


def test_targets_depend_on_the_seed_alone(corpus, tokenizer):
    drawn = [draw_targets("infill", corpus, 5, seed, tokenizer) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_targets_are_of_the_test_split(corpus):
    grammar = load_grammar("small")
    train = {sentence.text for sentence in grammar.corpus(0, 200)}
    assert not train & {example.text for example in islice(corpus, 200)}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("attribut", "no task 'attribut'; did you mean"),
        ("pos+pos", "twice"),
        ("infill+tree", "len"),
    ],
)
def test_an_unknown_task_is_refused(task, message):
    with pytest.raises(UserError, match=message):
        parse_task(task)


def test_outside_the_language_content_and_structure_do_not_hold(judge):
    text = "the golden fox serves thai thai food ."
    target = make_target(attributes=["food=thai"], pos=" ".join(["*"] * 8), length=8)
    verdict = judge(text, target)
    assert verdict.fluent is False
    assert verdict.holds == {"length": True, "attributes": False, "pos": False}


def test_measures(tokenizer):
    assert tag_accuracy(("DET", "*", "VERB"), ("DET", "X")) == pytest.approx(2 / 3)
    gold = ((0, 4, "S"), (0, 1, "NP"), (2, 4, "VP::X"))
    assert labelled_f1(gold, gold) == 1.0
    # 4 and 2 brackets, 1 in common.
    assert labelled_f1(gold, ((0, 4, "S"), (0, 2, "NP"))) == pytest.approx(2 / 6)
    assert labelled_f1((), ()) == 1.0


def test_without_an_annotator_structure_is_unknown(tokenizer):
    target = make_target(pos="DET NOUN", spans=["0:1=NP"])
    verdict = TextJudge(tokenizer)("the fox", target)
    assert verdict.holds == {"pos": None, "spans": None}
    assert verdict.all_hold() is None
    known = TextJudge(tokenizer, annotator=lambda _: Annotation(("DET", "NOUN"), ((0, 1, "NP"),)))
    assert known("the fox", target).all_hold()


@pytest.mark.parametrize(
    ("text", "field", "value", "said"),
    [
        ("The Mill near Blue Spice is cheap .", "name", "Blue Spice", False),
        ("Blue Spice near The Mill is cheap .", "name", "Blue Spice", True),
        ("It is near to Blue Spice .", "near", "Blue Spice", True),
        ("Blue Spice is a pub .", "near", "Blue Spice", False),
        ("It has a yellow door .", "customer rating", "low", False),
        ("It has a low customer rating .", "customer rating", "low", True),
        ("It is a 5 star pub .", "customer rating", "5 out of 5", True),
        ("It is rated 1 out of 5 .", "customer rating", "5 out of 5", False),
        ("It is family friendly .", "family friendly", "yes", True),
        ("It is not family friendly .", "family friendly", "yes", False),
        ("It isn ' t kid friendly .", "family friendly", "no", True),
        ("It is inexpensive .", "price", "cheap", True),
        ("Prices are less than £ 20 .", "price", "less than £ 20", True),
        ("It serves Italian food .", "food", "Italian", True),
    ],
)
def test_the_slot_matcher(text, field, value, said):
    assert says(text, field, value) is said


def test_an_absent_attribute_is_one_that_the_parse_does_not_have(judge):
    sentence = next(s for s in load_grammar("small").corpus(0, 50) if "food" not in s.attributes)
    other = next(s for s in load_grammar("small").corpus(0, 50) if "food" in s.attributes)
    (name, value), *_ = sentence.attributes.items()
    target = make_target(attributes=["food=absent", f"{name}={value}"])
    assert judge(sentence.text, target).all_hold()
    absent = make_target(attributes=["food=absent"])
    assert judge(other.text, absent).all_hold() is False
    assert judge("the golden fox serves .", absent).all_hold() is False


@pytest.mark.parametrize(
    ("text", "attributes", "holds"),
    [
        ("The Mill is cheap .", ["food=absent"], True),
        ("The Mill serves thai food .", ["food=absent"], False),
        ("The Mill is cheap .", ["food=absent", "price=cheap"], True),
        ("The Mill is cheap .", ["food=absent", "price=high"], False),
        ("The Mill is cheap .", ["area=absent"], None),
        ("The Mill is cheap .", ["area=absent", "food=thai"], False),
    ],
)
def test_an_absent_attribute_is_one_of_which_no_value_is_said(tokenizer, text, attributes, holds):
    fields = {"food": ("absent", "thai", "french"), "price": ("absent", "cheap", "high")}
    judge = make_judge("e2e.txt", tokenizer, fields=fields)
    verdict = judge(text, make_target(attributes=attributes))
    assert verdict.holds == {"attributes": holds}
    # The published rule is about what is said.
    assert ("attributes_substring" in verdict.measures) == (len(attributes) > 1)


def test_the_published_attribute_success_is_a_substring():
    assert contains("a yellow door", "low")


def test_a_summary_averages_over_texts_then_targets():
    def judge(text, target):
        return Verdict({"length": text == "good"}, fluent=text != "bad")

    targets = [make_target(length=3), make_target(length=4)]
    row = summarise("length", "control", targets, [["good", "good"], ["good", "bad"]], judge)
    assert (row.success, row.in_language, row.success_in_language) == (0.75, 0.75, 1.0)
    assert row.success_error == pytest.approx(0.25)
    assert row.distinct == 1.5
    assert "| length | control | 75.0 ± 25.0 | 75.0 | 100.0 |" in table([row])
    assert "length_within_2 99.9" in table([row], published=True)


def test_rejection_is_the_expectation_under_the_pool():
    def judge(text, target):
        return Verdict({"length": text == "good"}, fluent=text in ("good", "fine"))

    pool = ["good"] * 2 + ["fine"] * 3 + ["bad"] * 5
    row = rejection("length", [make_target(length=3)], pool, judge, num_samples=10, draws=2.5)
    # Far more texts are wanted than are drawn: each of 2.5 draws obeys with 0.2.
    assert row.success == pytest.approx(0.05, rel=1e-5)
    # Texts that obey are all fluent; of the others 3 in 8 are.
    assert row.in_language == pytest.approx(0.05 + 0.95 * 3 / 8, rel=1e-5)
    # As many hits as are wanted come on average, so often too few of them: E[min(hits, 2)] / 2.
    row = rejection("length", [make_target(length=3)], pool, judge, num_samples=2, draws=10)
    none, one = 0.8**10, 10 * 0.2 * 0.8**9
    assert row.success == pytest.approx((one + 2 * (1 - none - one)) / 2, rel=1e-5)


def test_what_nobody_can_tell_is_left_out():
    def judge(text, target):
        return Verdict({"length": True, "pos": None})

    row = summarise("length+pos", "control", [make_target(length=3)], [["a", "b"]], judge)
    assert row.by_control == {"length": 1.0}
    assert row.success is None
    assert "nan" not in table([row])
