import json

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.text.corpora import open_corpus
from diffusion_jax.text.labelled import build_labelled, word_positions
from diffusion_jax.text.labels import (
    ABSENT,
    FREE,
    AttributeLabels,
    SpanLabels,
    TagLabels,
    collect_labels,
    labels_from_json,
    labels_to_json,
)
from diffusion_jax.text.prefixes import with_prefix
from diffusion_jax.text.rows import Packing
from diffusion_jax.text.tokenizers import WordTokenizer, build_tokenizer

LINES = [
    {
        "text": "the fox serves thai food",
        "attributes": {"name": "fox", "food": "thai"},
        "pos": ["DET", "NOUN", "VERB", "ADJ", "NOUN"],
        "tree": "(S (NP (DT the) (NN fox)) (VP (V serves) (NP (JJ thai) (NN food))))",
    },
    {
        "text": "the swan",
        "attributes": {"name": "swan"},
        "pos": "DET NOUN",
        "spans": [[0, 1, "NP"]],
    },
]
WORDS = WordTokenizer(["the", "fox", "serves", "thai", "food", "swan"])
L = 9


def corpus(tmp_path, lines=LINES):
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return open_corpus(str(path))


def build(tmp_path, task, lines=LINES, length=L, on_long="error"):
    read = corpus(tmp_path, lines)
    labels = collect_labels(task, iter(read), read.describe)
    return labels, build_labelled(read, WORDS, Packing(length, "pad", on_long), labels)


def test_attributes_of_json_lines(tmp_path):
    labels, table = build(tmp_path, "attribute")
    assert labels.fields == {"name": (ABSENT, "fox", "swan"), "food": (ABSENT, "thai")}
    assert labels.slices == {"name": slice(0, 3), "food": slice(3, 5)}
    np.testing.assert_array_equal(table.rows(np.array([0, 1]))["targets"], [[1, 1], [2, 0]])
    np.testing.assert_array_equal(labels.encode({"food": "thai"}), [FREE, 1])


def test_a_value_that_is_not_told_apart_is_free_and_not_absent(tmp_path):
    labels = AttributeLabels({"name": (ABSENT, "fox"), "food": (ABSENT, "thai")})
    table = build_labelled(corpus(tmp_path), WORDS, Packing(L), labels)
    np.testing.assert_array_equal(table.rows(np.array([1]))["targets"], [[FREE, 0]])


def test_a_field_that_is_said_to_be_absent_is_not_said(tmp_path):
    other = {**LINES[1], "attributes": {"name": "swan", "food": ABSENT, "stars": ABSENT}}
    labels, table = build(tmp_path, "attribute", [LINES[0], other])
    assert labels.fields == {"name": (ABSENT, "fox", "swan"), "food": (ABSENT, "thai")}
    np.testing.assert_array_equal(table.rows(np.array([1]))["targets"], [[2, 0]])
    numbers, _ = build(tmp_path, "attribute", [{**LINES[1], "attributes": {"stars": 5}}])
    assert numbers.fields == {"stars": (ABSENT, "5")}


def test_as_said_the_words_decide_and_not_what_was_given(tmp_path):
    texts = {
        "the swan serves thai food": {"name": "fox", "food": "thai"},
        "the fox": {"name": "fox", "food": "thai"},
        "the fox the swan": {"name": "swan"},
        "the swan the fox": {"food": "thai"},
    }
    lines = [{"text": text, "attributes": given} for text, given in texts.items()]
    labels, given = build(tmp_path, "attribute", lines)
    assert labels.fields == {"name": (ABSENT, "fox", "swan"), "food": (ABSENT, "thai")}
    said = build_labelled(corpus(tmp_path, lines), WORDS, Packing(L), labels, as_said=True)
    rows = np.arange(4)
    np.testing.assert_array_equal(given.rows(rows)["targets"], [[1, 1], [1, 1], [2, 0], [0, 1]])
    np.testing.assert_array_equal(said.rows(rows)["targets"], [[2, 1], [1, 0], [2, 0], [FREE, 0]])


def test_labels_without_anything_to_tell_apart_are_refused(tmp_path):
    with pytest.raises(UserError, match="no example has constituents"):
        build(tmp_path, "tree", [{"text": "the swan", "spans": []}])
    with pytest.raises(UserError, match="no example has attributes"):
        build(tmp_path, "attribute", [{"text": "the swan", "attributes": {"food": ABSENT}}])


def test_tags_stand_where_the_tokens_stand(tmp_path):
    labels, table = build(tmp_path, "pos")
    row = table.rows(np.array([1]))
    names = [labels.tags[i] for i in row["targets"][0]]
    assert names == ["START", "DET", "NOUN", "END", *["PAD"] * 5]
    np.testing.assert_array_equal(labels.encode(["DET", "NOUN"], L), row["targets"][0])
    free = labels.encode(["*", "NOUN"], L, end=False)
    assert list(free) == [0, FREE, labels.tags.index("NOUN"), *[FREE] * 6]


def test_spans_stand_where_the_tokens_stand(tmp_path):
    labels, table = build(tmp_path, "tree")
    assert labels.labels == ("-", "NP", "S", "VP")
    charts = table.rows(np.array([0, 1]))["targets"]
    expected = np.where(np.tri(L, k=-1, dtype=bool), FREE, 0)
    for start, end, label in ((1, 5, 2), (1, 2, 1), (3, 5, 3), (4, 5, 1)):
        expected[start, end] = label
    np.testing.assert_array_equal(charts[0], expected)
    np.testing.assert_array_equal(
        charts[0],
        labels.encode([(0, 4, "S"), (0, 1, "NP"), (2, 4, "VP"), (3, 4, "NP")], L, num_tokens=5),
    )
    single = labels.encode([(0, 1, "NP")], L)
    assert single[1, 2] == 1
    assert np.sum(single != FREE) == 1


def test_what_is_cut_off_loses_its_labels(tmp_path):
    _, table = build(tmp_path, "tree", length=5, on_long="truncate")
    chart = table.rows(np.array([0]))["targets"][0]
    assert {(int(i), int(j)) for i, j in np.argwhere(chart > 0)} == {(1, 2)}
    _, tags = build(tmp_path, "pos", length=5, on_long="truncate")
    assert tags.rows(np.array([0]))["targets"].shape == (1, 5)


def test_pieces_of_a_word_share_its_label():
    texts = ["the golden fox serves thai food", "the white swan serves food"] * 8
    pieces = build_tokenizer("sentencepiece", texts, vocab_size=25)
    positions = word_positions("the golden fox", pieces)
    ids = pieces.encode("the golden fox")
    assert [i for words in positions for i in words] == list(range(len(ids)))
    assert max(map(len, positions)) > 1
    assert pieces.decode([ids[i] for i in positions[1]]).strip() == "golden"


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("attribute", {"attributes": None}, "no 'attributes'"),
        ("attribute", {"attributes": ["thai"]}, "'attributes' is .'thai'.; it must be an object"),
        ("attribute", {"attributes": {"food": None}}, "the attribute 'food' is None; it must be"),
        ("attribute", {"attributes": {"food": ["thai", "x"]}}, "the attribute 'food' is .'thai'"),
        ("attribute", {"attributes": {"friendly": True}}, "the attribute 'friendly' is True"),
        ("pos", {"pos": ["DET"]}, "1 tags for the 2 words"),
        ("pos", {"pos": None}, r"no 'pos' in it \(there is: attributes, spans\)"),
        ("pos", {"pos": {"the": "DET"}}, "'pos' is .'the': 'DET'.; it must be a list"),
        ("pos", {"pos": ["DET", 5]}, "'pos' is .'DET', 5.; it must be a list"),
        ("pos", {"pos": ["START", "NOUN"]}, "there is no tag 'START'"),
        ("pos", {"pos": "det noun"}, "there is no tag 'det'; did you mean 'DET'"),
        ("tree", {"spans": {"NP": [0, 1]}}, "'spans' is .'NP': .0, 1..; it must be a list"),
        ("tree", {"spans": [[0, 1]]}, r"span \[0, 1\] is not \[start, end, label\]"),
        ("tree", {"spans": [[0.5, 1.7, "NP"]]}, r"span \[0.5, 1.7, 'NP'\] is not"),
        ("tree", {"spans": [[0, 1, 5]]}, r"span \[0, 1, 5\] is not"),
        ("tree", {"spans": [[0, True, "NP"]]}, r"span \[0, True, 'NP'\] is not"),
        ("tree", {"spans": [[0, 1, "-"]]}, "a constituent is labelled '-'"),
        ("tree", {"tree": "(S (- the swan) a)"}, "a constituent is labelled '-'"),
        ("tree", {"tree": 5}, "'tree' is 5; it must be brackets"),
        (
            "tree",
            {"text": "the swan is a pub", "spans": [[0, 2, "NP"], [1, 4, "VP"]]},
            "spans 0:2=NP and 1:4=VP cross",
        ),
        ("pos", {"pos": ["DET", "NUON"]}, "did you mean 'NOUN'"),
        ("tree", {"spans": [[0, 7, "NP"]]}, "span 0:7 is not inside"),
        ("tree", {"tree": "(S (NP the swan)"}, "unbalanced"),
        ("tree", {"tree": "(S " * 3000 + "a" + ")" * 3000}, "more than 200 brackets"),
        ("tree", {"tree": "(S a b c)"}, "the tree has 3 words, but the text 2"),
    ],
)
def test_labels_that_do_not_fit_are_named_with_their_example(tmp_path, task, change, message):
    with pytest.raises(UserError, match=message) as error:
        build(tmp_path, task, [LINES[0], {**LINES[1], **change}])
    assert "example 2" in str(error.value)


def test_wishes_that_cannot_be_are_named():
    labels = AttributeLabels({"food": (ABSENT, "thai", "french")})
    with pytest.raises(UserError, match="did you mean 'food'"):
        labels.encode({"fod": "thai"})
    for wrong in ("frnch", "FRENCH"):
        with pytest.raises(UserError, match="did you mean 'french'"):
            labels.encode({"food": wrong})
    with pytest.raises(UserError, match="do not fit"):
        TagLabels().encode(["DET"] * 8, L)
    spans = SpanLabels(("-", "NP", "PP"))
    with pytest.raises(UserError, match="two labels"):
        spans.encode([(0, 1, "NP"), (0, 1, "PP")], L)
    with pytest.raises(UserError, match=r"no constituent '-'; choose from: NP, PP$"):
        spans.encode([(0, 1, "-")], L)
    with pytest.raises(UserError, match="not inside"):
        spans.encode([(3, 7, "NP")], L)


@pytest.mark.parametrize("task", ["attribute", "pos", "tree"])
def test_labels_as_json_and_back(tmp_path, task):
    labels, _ = build(tmp_path, task)
    assert labels_from_json(json.loads(json.dumps(labels_to_json(labels)))) == labels
    with pytest.raises(UserError, match="not a set of labels"):
        labels_from_json({"task": task})


def test_controls_stand_before_texts(tmp_path):
    read = corpus(tmp_path)
    sources = {
        name: next(iter(with_prefix(read, name))).src
        for name in ("attributes", "pos", "length", "tree")
    }
    assert sources == {
        "attributes": "name : fox | food : thai",
        "pos": "DET NOUN VERB ADJ NOUN",
        "length": "5",
        "tree": "0 4 S 0 1 NP 2 4 VP 3 4 NP",
    }
    assert with_prefix(read, "none") is read
    # What a control of length asks for counts the line end, as it is a word that is written.
    path = tmp_path / "lines.txt"
    path.write_text("the fox .\n")
    kept = open_corpus(str(path), keep_newline=True)
    assert next(iter(with_prefix(kept, "length"))).src == "4"


def test_every_second_text_tells_a_part_of_its_attributes(tmp_path):
    """A control may ask for one attribute; a model that was always told all could not follow."""
    everything = corpus(tmp_path, LINES[:1] * 60)
    sources = [pair.src for pair in with_prefix(everything, "attributes")]
    whole = "name : fox | food : thai"
    assert sources[::2] == [whole] * 30
    assert set(sources[1::2]) == {"name : fox", "food : thai", whole}
    assert sources == [pair.src for pair in with_prefix(everything, "attributes")]
    assert next(iter(with_prefix(everything, "attributes"))).trg == LINES[0]["text"]
