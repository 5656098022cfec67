import itertools

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.trees import best_tree, labelled_f1
from diffusion_jax.text.grammar import load_grammar
from diffusion_jax.text.labels import FREE, SpanLabels
from diffusion_jax.text.trees import check_nested, format_tree, join_spans, parse_tree

LABELS = SpanLabels(("-", "NP", "S", "VP"))


@pytest.mark.parametrize("size", ["small", "full"])
def test_brackets_spans_and_back(size):
    for sentence in load_grammar(size).corpus(0, 100):
        tree = parse_tree(sentence.tree)
        assert tree.tokens == sentence.tokens
        assert tree.spans == join_spans(sentence.spans)
        assert parse_tree(format_tree(tree.tokens, tree.spans, tree.tags)) == tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(S (NP a)", "1 missing"),
        ("(S a))", "too many"),
        ("(S )", "empty bracket"),
        ("a (S b)", "outside"),
        ("(S a) (S b)", "2 trees"),
        ("", "0 trees"),
    ],
)
def test_bad_trees_are_named(text, message):
    with pytest.raises(UserError, match=message):
        parse_tree(text)


@pytest.mark.parametrize(
    ("text", "tags", "spans"),
    [
        ("(S (NP a b) (VP c))", ("X", "X", "X"), ((0, 2, "S"), (0, 1, "NP"), (2, 2, "VP"))),
        ("(S (NP-SBJ a) b)", ("X", "X"), ((0, 1, "S"), (0, 0, "NP-SBJ"))),
        ("(S (VP a))", ("X",), ((0, 0, "S::VP"),)),
        ("(TOP (S a))", ("X",), ((0, 0, "S"),)),
        ("(S (NN a) (XP (X b)))", ("NN", "X"), ((0, 1, "S"), (1, 1, "XP"))),
        ("(S (INTJ a) (-LRB- b))", ("INTJ", "-LRB-"), ((0, 1, "S"),)),
    ],
)
def test_a_bracket_around_one_word_is_what_its_label_says(text, tags, spans):
    tree = parse_tree(text)
    assert (tree.tags, tree.spans) == (tags, spans)
    assert parse_tree(format_tree(tree.tokens, spans, tags)) == tree


def test_a_tree_is_only_so_deep():
    assert parse_tree("(S " * 200 + "a" + ")" * 200).spans == ((0, 0, "::".join(["S"] * 200)),)
    with pytest.raises(UserError, match="more than 200 brackets"):
        parse_tree("(S " * 3000 + "a" + ")" * 3000)


def test_crossing_spans_are_refused():
    check_nested([(0, 3, "S"), (0, 1, "NP"), (2, 3, "VP")], 4)
    with pytest.raises(UserError, match="cross"):
        check_nested([(0, 2, "S"), (1, 3, "NP")])
    with pytest.raises(UserError, match="not inside"):
        check_nested([(0, 4, "S")], 4)


def score(log_probs, spans):
    return sum(log_probs[i, j, LABELS.labels.index(n)] - log_probs[i, j, 0] for i, j, n in spans)


def consistent(chosen):
    try:
        check_nested(chosen)
    except UserError:
        return False
    return True


def test_the_best_tree_is_that_of_exhaustive_search():
    count = 4
    cells = [(i, j) for i in range(count) for j in range(i, count)]
    for seed in range(10):
        log_probs = np.random.default_rng(seed).normal(size=(count, count, 4))
        # So that most spans are none, and some of the best tree's inner nodes too.
        log_probs[..., 0] += 1.5
        names = {cell: LABELS.labels[1 + np.argmax(log_probs[cell][1:])] for cell in cells}
        best = 0.0
        for size in range(len(cells) + 1):
            for subset in itertools.combinations(cells, size):
                chosen = [(*cell, names[cell]) for cell in subset]
                if consistent(chosen):
                    best = max(best, score(log_probs, chosen))
        found = best_tree(log_probs, LABELS)
        assert consistent(found)
        assert score(log_probs, found) == pytest.approx(best)


def test_a_certain_chart_gives_back_its_tree():
    for sentence in load_grammar("small").corpus(0, 20):
        spans = join_spans(sentence.spans)
        labels = SpanLabels(("-", *sorted({label for *_, label in spans})))
        count = len(sentence.tokens)
        chart = labels.encode(spans, count + 2, num_tokens=count)[1:-1, 1:-1]
        log_probs = np.where(chart[..., None] == np.arange(labels.num_classes), 0.0, -9.0)
        assert best_tree(log_probs, labels) == spans
        assert np.all((chart == FREE) == np.tri(count, k=-1, dtype=bool))


def test_f1_counts_brackets_and_splits_unary_chains():
    wanted = [((0, 3, "S"), (0, 1, "NP"), (2, 3, "S::VP"))]
    assert labelled_f1(wanted, wanted).f1 == 1.0
    found = [((0, 3, "S"), (0, 1, "VP"), (2, 3, "VP"))]
    agreement = labelled_f1(wanted, found)
    assert agreement == pytest.approx((2 / 3, 2 / 4, 4 / 7))
    with pytest.raises(UserError, match="1 wanted trees and 2"):
        labelled_f1(wanted, found * 2)
