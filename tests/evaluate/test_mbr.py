"""Choosing among candidates: counting, the libraries' scores, roles, ties, bad input."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF

from diffusion_jax.errors import UserError
from diffusion_jax.mbr import UTILITIES, mbr_scores, mbr_select, pairwise_utility
from diffusion_jax.mbr.ngrams import pairwise_overlap

# Few different pieces, so that texts share and repeat n-grams; some texts are empty or blank.
PIECES = st.sampled_from([*"ab1.,-;&$ \t", "&quot;", "-\n", "<skipped>", "cat", " ", " the ", "é"])
TEXT = st.lists(PIECES, max_size=12).map("".join)


def groups_of(text, num_texts=3):
    return st.lists(st.lists(text, min_size=num_texts, max_size=num_texts), min_size=1, max_size=3)


def count_matches(first, second, order):
    def ngrams(tokens):
        return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))

    return (ngrams(first) & ngrams(second)).total()


@given(groups_of(st.text("abc", max_size=9)))
@settings(max_examples=60, deadline=None)
def test_overlap_equals_counting_one_by_one(groups):
    overlap = pairwise_overlap(groups, max_order=4)
    for s, group in enumerate(groups):
        for order in range(1, 5):
            expected = [[count_matches(a, b, order) for b in group] for a in group]
            np.testing.assert_array_equal(overlap.matches[order - 1, s], expected)
            totals = [max(len(text) - order + 1, 0) for text in group]
            np.testing.assert_array_equal(overlap.totals[order - 1, s], totals)


@pytest.mark.parametrize(
    ("name", "metric"), [("sacrebleu", BLEU(effective_order=True)), ("chrf", CHRF())]
)
@given(groups=groups_of(TEXT))
@settings(max_examples=60, deadline=None)
def test_named_utilities_equal_the_library(name, metric, groups):
    scores = pairwise_utility(groups, name)
    for s, group in enumerate(groups):
        for i, hypothesis in enumerate(group):
            for j, reference in enumerate(group):
                expected = metric.sentence_score(hypothesis, [reference]).score
                assert scores[s, i, j] == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("name", UTILITIES)
@given(groups=groups_of(TEXT))
@settings(max_examples=20, deadline=None)
def test_scores_are_finite_and_do_not_depend_on_neighbours(name, groups):
    scores = pairwise_utility(groups, name)
    assert np.isfinite(scores).all()
    alone = np.concatenate([pairwise_utility([group], name) for group in groups])
    np.testing.assert_array_equal(scores, alone)


def test_many_sources_are_cut_into_blocks(monkeypatch):
    groups = [[f"a {i} b", f"b {i % 3} a", "a b c"] for i in range(20)]
    whole = pairwise_utility(groups, "nltk_bleu")
    monkeypatch.setattr("diffusion_jax.mbr.utilities._PAIRS_AT_ONCE", 30)
    np.testing.assert_array_equal(pairwise_utility(groups, "nltk_bleu"), whole)


def test_a_short_text_does_not_win_under_e2e_bleu():
    """As published, one word divides by 1e-9 and scores in the thousands."""
    group = [["the", "the cat sat on the mat", "the cat sat on a mat"]]
    assert pairwise_utility(group, "e2e_bleu_published").max() > 1000
    assert pairwise_utility(group, "e2e_bleu").max() <= 1
    assert mbr_select(group, "e2e_bleu", role="reference") != [0]


def test_a_function_is_called_as_hypothesis_and_reference():
    def utility(hypothesis, reference):
        return float(hypothesis + reference == "ab")

    scores = pairwise_utility([["a", "b"]], utility)
    np.testing.assert_array_equal(scores, [[[0, 1], [0, 0]]])
    np.testing.assert_array_equal(mbr_scores([["a", "b"]], utility), [[1, 0]])
    np.testing.assert_array_equal(mbr_scores([["a", "b"]], utility, role="reference"), [[0, 1]])


def test_the_mean_leaves_the_candidate_itself_out():
    groups = [["x y z w", "x y z w", "q"]]
    scores = mbr_scores(groups, "nltk_bleu")
    np.testing.assert_allclose(scores, [[0.5, 0.5, 0.0]])


def test_ties():
    groups = [["same words here", "same words here", "other"]] * 2
    np.testing.assert_array_equal(mbr_select(groups), [0, 0])
    np.testing.assert_array_equal(mbr_select(groups, ties="last"), [1, 1])


def test_the_order_of_addition_does_not_decide_a_tie():
    """0.1 + (0.2 + 0.3) and (0.1 + 0.2) + 0.3 differ in the last bit; both sums are the same."""
    values = {"a": [0.1, 0.2, 0.3], "b": [0.3, 0.2, 0.1]}
    calls = {"a": iter(values["a"]), "b": iter(values["b"])}
    group = ["b", "a", "c", "d"]
    chosen = mbr_select([group], lambda h, _: next(calls[h]) if h in calls else 0.0)
    np.testing.assert_array_equal(chosen, [0])


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        ([], {}, "no candidates"),
        ([[]], {}, "source 0 has no candidates"),
        ([["a"]], {}, "at least two"),
        (["ab"], {}, "list of texts"),
        ([["a", "b"], ["a"]], {}, "source 1 has 1 candidates, but source 0 has 2"),
        ([["a", "b"]], {"utility": "bleu"}, "there is: sacrebleu"),
        ([["a", "b"]], {"role": "judge"}, "role is 'judge'"),
        ([["a", "b"]], {"ties": "any"}, "ties is 'any'"),
        ([["a", "b"]], {"utility": lambda h, r: float("nan")}, "not a number"),
        ([["a", "b"]], {"utility": lambda h, r: float("-inf")}, "infinite"),
        (
            [["a", "b"], ["a", "c"]],
            {"utility": lambda h, r: float("inf") if h == "c" else 1.0},
            "infinite or not a number .nan. for candidates of source 1",
        ),
    ],
)
def test_bad_input(groups, options, message):
    with pytest.raises(UserError, match=message):
        mbr_select(groups, **options)
