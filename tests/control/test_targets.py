"""What may be asked, and what is refused before anything is compiled."""

import json
from types import SimpleNamespace

import pytest

from diffusion_jax.config import GuidanceConfig
from diffusion_jax.control.wishes import Plan, plan_wishes
from diffusion_jax.errors import UserError
from diffusion_jax.text.control_targets import (
    Target,
    check_target,
    make_target,
    read_targets,
    target_from_json,
)
from diffusion_jax.text.labels import NO_SPAN, SpanLabels
from diffusion_jax.text.templates import (
    fill_row,
    keeps,
    layouts,
    parse_template,
)
from diffusion_jax.text.tokenizers.word import WordTokenizer

WORDS = ["the", "pub", "is", "cheap", "thai", "food", "."]
TREE = "(S (NP the pub) (VP is (ADJP cheap)) .)"


@pytest.fixture(scope="module")
def tokenizer():
    return WordTokenizer(WORDS)


def test_a_typed_target():
    target = make_target(
        attributes=["food=Italian", "customer rating=5 out of 5"],
        length=5,
        pos="DET NOUN AUX * PUNCT",
        spans=["0:1=NP"],
        keywords=["cheap"],
    )
    assert target.attributes == {"food": "Italian", "customer rating": "5 out of 5"}
    assert target.pos == ("DET", "NOUN", "AUX", "*", "PUNCT")
    assert target.spans == ((0, 1, "NP"),)
    assert target.controls() == ("attributes", "length", "pos", "spans", "keywords")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "asks for nothing"),
        ({"attributes": ["food"]}, "not FIELD=VALUE"),
        ({"attributes": ["food=thai", "food=french"]}, "contradictory controls: food cannot be"),
        ({"pos": "DET NUON"}, "no part of speech 'NUON'; did you mean 'NOUN'"),
        ({"pos": "det noun"}, "no part of speech 'det'; did you mean 'DET'"),
        ({"tree": "(S (NP the pub) (VP is"}, "unbalanced tree"),
        ({"tree": "(S the))"}, r"unbalanced tree: a \) too many"),
        ({"spans": ["3-5=PP"]}, "not START:END=LABEL"),
        ({"spans": ["5:3=PP"]}, "span 5:3 is not inside"),
        ({"spans": ["3:5=PP", "3:5=NP"]}, "span 3:5 cannot be both PP and NP"),
        ({"spans": ["3:5=PP", "4:7=NP"]}, "cross"),
        ({"spans": ["3:9=PP"], "length": 7}, "3:9 is not inside the text of 7 tokens"),
        ({"length": 5, "pos": "DET " * 9}, "length asks for 5, pos asks for 9"),
        ({"length": 0}, "length asks for 0 tokens; ask for 1"),
        ({"tree": TREE, "length": 9}, "length asks for 9, tree asks for 5"),
        ({"tree": TREE, "spans": ["0:1=PP"]}, "span 0:1=PP, where the tree has NP"),
    ],
)
def test_what_contradicts_itself_is_refused(asked, message):
    with pytest.raises(UserError, match=message):
        make_target(**asked)


def test_a_length_beyond_the_model_is_refused():
    with pytest.raises(UserError, match="length asks for 20 tokens; ask for 1 to 16"):
        check_target(Target(length=20), max_length=16)
    with pytest.raises(UserError, match="3:17 is not inside the text of 16 tokens"):
        check_target(Target(spans=((3, 17, "PP"),)), max_length=16)


def test_a_target_survives_json():
    target = make_target(attributes=["food=thai"], tree=TREE, spans=["0:1=NP"], keywords=["pub"])
    assert target_from_json(json.loads(json.dumps(target.to_json()))) == target


def test_a_part_of_speech_that_may_be_meant_as_a_constituent_is_refused(tokenizer):
    labels = SpanLabels((NO_SPAN, "INTJ", "S", "X", "XP"))
    tells = {"tree": SimpleNamespace(labels_as=lambda kind: labels)}

    def asked(tree):
        plan = Plan(make_target(tree=tree))
        return plan_wishes(plan, tells, tokenizer, 8, GuidanceConfig())["tree"].targets

    with pytest.raises(UserError, match=r"write \(XP \(X a\)\) to ask for that, or a alone"):
        asked("(S (XP a) b)")
    assert asked("(S (XP (X a)) b)")[1, 1] == labels.labels.index("XP")
    # Where the constituent is asked for, its word may be of that part of speech.
    assert asked("(S (INTJ (INTJ a)) b)")[1, 1] == labels.labels.index("INTJ")
    assert asked("(S (X a) (NN b))")[1, 1] == 0


def test_published_formats():
    assert target_from_json(["customer", "rating", ":", "5", "out", "of", "5"]) == Target(
        attributes={"customer rating": "5 out of 5"}
    )
    words = ["START", "The", "pub", "\n", "END"]
    both = {"pos": ["START", "DET", "NOUN", "X", "END"], "words_": words, "attr": ["a", ":", "b"]}
    assert target_from_json(both) == Target(
        attributes={"a": "b"}, pos=("DET", "NOUN", "X"), reference="The pub \n"
    )
    # Published spans count the words without START, as ours do.
    spans = target_from_json({"words_": words, "spans": [[0, 1, "NP"]]})
    assert spans.spans == ((0, 1, "NP"),)


def test_the_line_end_of_a_published_target_is_as_classifiers_learn_it():
    words = ["START", "The", "pub", "\n", "END", "PAD"]
    tagged = {"pos": ["START", "DET", "NOUN", "PROPN", "END", "PAD"], "words_": words}
    assert target_from_json(tagged).pos == ("DET", "NOUN", "X")
    # What ends with it ends before it, and what then is one constituent of one word or more is
    # joined, the longer above.
    spans = [[0, 1, "NP"], [0, 2, "S"], [2, 2, "X"]]
    assert target_from_json({"words_": words, "spans": spans}).spans == ((0, 1, "S::NP"),)
    with pytest.raises(UserError, match="0:1 cannot be both NP and PP"):
        target_from_json({"words_": words, "spans": [[0, 1, "NP"], [0, 1, "PP"]]})
    with pytest.raises(UserError, match="span 1:0 is not inside"):
        target_from_json({"words_": words, "spans": [[1, 0, "NP"]]})


def test_a_published_tree_has_a_newline_as_its_last_leaf():
    record = {
        "padded_chart": [[-100, 0], [-100, 0]],
        "words_": ["START", "The", "pub", "shines", ".", "\n", "END"],
        "tree": "(TOP (S (NP (DT The) (NN pub)) (VP (VBZ shines)) (. .) (_SP \n)))",
    }
    target = target_from_json(record)
    assert target.fixed_length() == 5
    assert target.tree_spans() == ((0, 3, "S"), (0, 1, "NP"), (2, 2, "VP"))
    assert target.reference == "The pub shines . \n"
    # Over several lines, as a person writes them.
    lines = "(S\n  (NP (DT The) (NN pub))\n  (VP\n    (VBZ shines)))"
    assert make_target(tree=lines).tree_spans() == ((0, 2, "S"), (0, 1, "NP"), (2, 2, "VP"))
    for empty in ("(S (NP \n) a)", "(S (\n \n) a)", "(S (NN\n) a)", "(S (NN ) a)"):
        with pytest.raises(UserError, match="an empty bracket"):
            make_target(tree=empty)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: invalid JSON"),
        ('{"lenght": 3}', "no field of a target 'lenght'; did you mean 'length'"),
        ('{"length": "3"}', "length is '3'; it must be a whole number"),
        ('["food", "thai"]', 'not \\["field", ":", "value"\\]'),
        ('{"spans": [[1, 2]]}', "is not \\[start, end, label\\]"),
        ("3", "a target is an object or a list"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 900 + "]" * 900, "is not|nested too deeply"),
        (json.dumps({"tree": "(S " * 3000 + "a" + ")" * 3000}), "more than 200 brackets"),
    ],
)
def test_a_bad_line_of_a_file_is_named(tmp_path, line, message):
    path = tmp_path / "targets.jsonl"
    path.write_text('{"length": 3}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_targets(path)
    assert "targets.jsonl, line 2" in str(caught.value)


def test_a_mask_may_touch_words_and_holes_that_touch_are_one(tokenizer):
    template = parse_template("the ___ is ___ ___.", tokenizer)
    assert template.segments == ((4,), (6,), (10,))
    assert template.holes == (1, 2)
    assert parse_template("the?is", tokenizer, "?").segments == ((4,), (6,))


@pytest.mark.parametrize(
    ("text", "mask", "message"),
    [
        ("the pub .", "___", "there is no hole"),
        (
            "the ___ is cheep .",
            "___",
            "'cheep' is not in .* did you mean 'cheap'",
        ),
        ("the pub", " ", "give a visible character"),
    ],
)
def test_a_bad_template_is_refused(tokenizer, text, mask, message):
    with pytest.raises(UserError, match=message):
        parse_template(text, tokenizer, mask)


def test_a_special_token_is_not_what_a_word_may_be_meant_as(tokenizer):
    for special in ("[PAD]", "[START]", "[UNK]"):
        with pytest.raises(UserError, match=r"is not in this model's vocabulary$"):
            parse_template(f"{special} ___", tokenizer)


def test_layouts_are_all_ways_within_the_bounds(tokenizer):
    template = parse_template("the ___ is ___ .", tokenizer)
    found = layouts(template, 7, min_hole=1, max_hole=3)
    assert found == [(1, 1), (1, 2), (2, 1), (1, 3), (2, 2), (3, 1)]
    assert layouts(template, 7, num_tokens=6) == [(1, 2), (2, 1)]
    assert layouts(template, 7, min_hole=0, max_hole=0) == [(0, 0)]
    spread = layouts(template, 7, limit=3)
    assert (spread[0], spread[-1], len(spread)) == ((1, 1), (3, 1), 3)
    with pytest.raises(UserError, match="no text of 12 tokens"):
        layouts(template, 16, max_hole=3, num_tokens=12)


def test_a_row_holds_the_words_and_generates_the_holes(tokenizer):
    template = parse_template("the ___ is ___ .", tokenizer)
    row = fill_row(template, (2, 1), 10, tokenizer)
    assert row.input_ids.tolist() == [0, 4, 3, 3, 6, 3, 10, 1, 3, 3]
    assert row.noise_mask.tolist() == [i in (2, 3, 5) for i in range(10)]
    filled = row.input_ids.copy()
    filled[[2, 3, 5]] = [5, 5, 7]
    assert keeps(template, filled[1:7])
    assert not keeps(template, [4, 5, 5, 7, 10])
    assert not keeps(template, [5, 6, 7, 10])
