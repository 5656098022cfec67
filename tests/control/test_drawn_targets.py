"""Targets drawn from held-out texts: which texts, in which order, of words or of pieces."""

import hashlib
import json

import pytest

from diffusion_jax.config import DataConfig
from diffusion_jax.control.judge import Annotation, TextJudge
from diffusion_jax.control.tasks import draw_targets, held_out
from diffusion_jax.errors import UserError
from diffusion_jax.text.corpora import open_corpus
from diffusion_jax.text.grammar import load_grammar
from diffusion_jax.text.templates import encode_known
from diffusion_jax.text.tokenizers import WordTokenizer, build_tokenizer
from diffusion_jax.text.trees import parse_tree

NAMES = [f"Pub{i}" for i in range(20)]
TEXT = "the golden fox serves thai food"


@pytest.fixture
def sorted_file(tmp_path):
    """Return an E2E file sorted by meaning: five texts of each pub."""
    path = tmp_path / "held.txt"
    lines = [f"name : {n}||{n} is {'very ' * i}cheap ." for n in NAMES for i in range(5)]
    path.write_text("\n".join(lines) + "\n")
    return open_corpus(str(path))


@pytest.fixture
def words(sorted_file):
    return WordTokenizer.build(sorted_file.texts(), threshold=0)


@pytest.fixture
def labelled(tmp_path):
    """Return the opener of a file with one labelled text."""

    def write(text, **labels):
        path = tmp_path / "labelled.jsonl"
        path.write_text(json.dumps({"text": text, **labels}) + "\n")
        return open_corpus(str(path))

    return write


@pytest.fixture(scope="module")
def pieces():
    texts = [TEXT, "the white swan serves food"] * 8
    return build_tokenizer("sentencepiece", texts, vocab_size=25)


def test_targets_of_a_file_come_from_all_over_it_by_the_seed(sorted_file, words):
    drawn = [draw_targets("attribute", sorted_file, 20, seed, words) for seed in (0, 0, 1)]
    # Each name once, as there are others: sorted, the first twenty texts are of four pubs.
    assert sorted(target.attributes["name"] for target in drawn[0]) == sorted(NAMES)
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    texts = [target.reference for target in drawn[0]]
    assert texts != sorted(texts)


def test_what_was_asked_is_asked_again_where_there_is_nothing_else(sorted_file, words):
    lengths = [target.length for target in draw_targets("length", sorted_file, 12, 0, words)]
    assert sorted(lengths[:5]) == [4, 5, 6, 7, 8]
    assert len(lengths) == 12


def test_texts_that_the_model_cannot_write_are_passed_over(sorted_file, words):
    targets = draw_targets("length", sorted_file, 40, 0, words, max_tokens=5)
    assert {target.length for target in targets} == {4, 5}
    with pytest.raises(UserError, match=r"gives 40 targets .*\(60 texts are too long"):
        draw_targets("length", sorted_file, 41, 0, words, max_tokens=5)


@pytest.mark.parametrize(
    ("task", "digest"),
    [
        ("attribute", "7e48292b7e6ee90e"),
        ("pos", "ed647e2e4c8c8aa1"),
        ("tree", "e8e672d32acfca46"),
        ("span", "b6d83de70266d12e"),
        ("length", "2dc6a5cd44a79ccc"),
        ("infill", "28d7717ef71939fd"),
        ("attribute+length", "58b23b0f01832b28"),
        ("attribute+pos", "6e0f4fcccafd8d12"),
        ("attribute+tree", "4b2d689ca79f899d"),
    ],
)
def test_targets_of_the_grammar_are_those_that_were_measured(task, digest):
    """Those of benchmarks/results/control.md, which other figures are compared with."""
    corpus = held_out(DataConfig(corpus="grammar:small"), "", 0)
    tokenizer = WordTokenizer(load_grammar("small").vocabulary())
    targets = draw_targets(task, corpus, 100, 0, tokenizer, max_tokens=16)
    written = json.dumps([[target.to_json(), target.reference] for target in targets])
    assert hashlib.sha256(written.encode()).hexdigest()[:16] == digest


def test_what_is_said_to_be_absent_is_not_asked(labelled):
    corpus = labelled("the fox", attributes={"food": "absent", "name": "fox", "area": "absent"})
    for seed in range(9):
        (target,) = draw_targets("attribute", corpus, 1, seed, WordTokenizer(["the", "fox"]))
        assert target.attributes == {"name": "fox"}


def test_a_tree_is_made_of_labelled_spans(labelled):
    corpus = labelled("the ( fox ) .", spans=[[0, 4, "S"], [0, 3, "NP"], [4, 4, "PP"]])
    tokenizer = WordTokenizer(["the", "(", "fox", ")", "."])
    (target,) = draw_targets("tree", corpus, 1, 0, tokenizer)
    assert parse_tree(target.tree).tokens == ("the", "-LRB-", "fox", "-RRB-", ".")
    assert target.tree_spans() == ((0, 4, "S"), (0, 3, "NP"), (4, 4, "PP"))


LABELS = {
    "pos": "DET ADJ NOUN VERB ADJ NOUN",
    "tree": "(S (NP (DT the) (JJ golden) (NN fox)) (VP (VBZ serves) (NP (JJ thai) (NN food))))",
}


def test_labels_of_words_become_targets_of_pieces(labelled, pieces):
    corpus = labelled(TEXT, **LABELS)
    ids = pieces.encode(TEXT)
    assert len(ids) > 6
    first = {w: len(pieces.encode(" ".join(TEXT.split()[:i]))) for i, w in enumerate(TEXT.split())}

    (target,) = draw_targets("pos+tree", corpus, 1, 0, pieces)
    assert len(target.pos) == len(parse_tree(target.tree).tokens) == len(ids)
    fox = slice(first["fox"], first["serves"])
    assert set(target.pos[fox]) == {"NOUN"}
    spans = ((0, len(ids) - 1, "S"), (0, first["serves"] - 1, "NP"))
    assert target.tree_spans()[:2] == spans
    drawn = [draw_targets("span", corpus, 1, seed, pieces)[0].spans[0] for seed in range(9)]
    assert set(drawn) <= set(target.tree_spans()[1:])


def test_holes_are_cut_between_words(labelled, pieces):
    corpus = labelled(TEXT)
    for seed in range(9):
        (target,) = draw_targets("infill", corpus, 1, seed, pieces)
        kept = [word for word in target.keep.split() if word != "___"]
        assert set(kept) < set(TEXT.split())
        assert encode_known(" ".join(kept), pieces)


def test_words_are_judged_and_pieces_compared(labelled, pieces):
    corpus = labelled(TEXT, **LABELS)
    targets = draw_targets("pos+tree", corpus, 1, 0, pieces)
    targets += draw_targets("span", corpus, 1, 0, pieces)
    asked = []

    def annotate(words):
        asked.append(words)
        if words != TEXT.split():
            return Annotation(["X"] * len(words), ())
        return Annotation(LABELS["pos"].split(), parse_tree(LABELS["tree"]).spans)

    judge = TextJudge(pieces, annotator=annotate)
    assert [judge(TEXT, target).all_hold() for target in targets] == [True, True]
    assert asked[0] == TEXT.split()
    assert judge("the golden", targets[0]).all_hold() is False


def test_a_label_that_cannot_be_is_named_with_its_example(labelled):
    tokenizer = WordTokenizer(["the", "fox"])
    for labels, task, message in (
        ({"pos": "DET NUON"}, "pos", "did you mean 'NOUN'"),
        ({"pos": "DET"}, "pos", "1 tags for the 2 words"),
        ({"spans": [[0, 5, "NP"]]}, "span", "span 0:5 is not inside the 2 words"),
        ({}, "tree", "no 'tree' in it"),
    ):
        with pytest.raises(UserError, match=f"the held-out corpus, example 1: .*{message}"):
            draw_targets(task, labelled("the fox", **labels), 1, 0, tokenizer)
