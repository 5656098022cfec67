"""Overlap and diversity by hand-made cases, the report, and metrics that ask other models."""

import json
import sys
import types

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.diversity import distinct_n, div_n, mean_length, self_bleu
from diffusion_jax.evaluate.overlap import exact_match, rouge_l
from diffusion_jax.evaluate.presets import PRESETS
from diffusion_jax.evaluate.report import evaluate_texts

REFERENCES = ["the cat sat on the mat", "who is he ?"]
CANDIDATES = [["the cat sat on the mat", "a cat sat"], ["who is she ?", "is he who ?"]]


def longest_common_subsequence(first, second):
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return 1 + longest_common_subsequence(first[:-1], second[:-1])
    return max(
        longest_common_subsequence(first[:-1], second),
        longest_common_subsequence(first, second[:-1]),
    )


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
@settings(max_examples=80, deadline=None)
def test_rouge_l_equals_the_recursion(first, second):
    common = longest_common_subsequence(first, second)
    expected = 2 * common / (len(first) + len(second)) if common else 0.0
    assert rouge_l([" ".join(first)], [" ".join(second)]) == pytest.approx(expected)


def test_rouge_l_reads_letters_and_digits_only():
    assert rouge_l(["What's 5%?"], ["what s 5"]) == 1.0


def test_exact_match():
    assert exact_match(["a b ", "a"], ["a b", "b"]) == 0.5


def test_distinct_n():
    assert distinct_n(["a a b", ""], 1) == pytest.approx((2 / 3 + 0) / 2)
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)


def test_div_n_pools_the_candidates_of_a_source():
    assert div_n([["a b c d e", "a b c d f"]]) == pytest.approx(3 / 4)
    assert div_n([["a b c d", "a b c d"], ["a", "b"]]) == pytest.approx((1 / 2 + 0) / 2)


def test_self_bleu_both_ways_does_not_depend_on_the_order():
    groups = [["a b c d e", "a b c", "a x c d"]]
    turned = [groups[0][::-1]]
    assert self_bleu(groups, "nltk_bleu") == pytest.approx(self_bleu(turned, "nltk_bleu"))
    one_way = self_bleu(groups, "nltk_bleu", both_ways=False)
    assert one_way != pytest.approx(self_bleu(turned, "nltk_bleu", both_ways=False))


def test_mean_length():
    assert mean_length(["a  b", "", "c d e f"]) == 2


def test_standard_cleaning_ends_at_the_first_separator():
    clean = PRESETS["standard"].clean_hypothesis
    assert clean("[CLS] who  is [PAD] he [SEP] rubbish [PAD]") == "who is he"
    assert clean(" plain text ") == "plain text"


def test_standard_scores_are_the_library_s():
    report = evaluate_texts(CANDIDATES, REFERENCES)
    for index, scores in enumerate(report.candidates):
        column = [group[index] for group in CANDIDATES]
        expected = sacrebleu.corpus_bleu(column, [REFERENCES]).score
        assert scores["bleu"] == pytest.approx(expected)
        assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(column, [REFERENCES]).score)
    assert "tok:13a" in report.signatures["bleu"]
    assert report.versions["sacrebleu"] == sacrebleu.__version__
    assert json.loads(json.dumps(report.to_dict()))["num_candidates"] == 2


def test_every_reference_of_a_source_counts():
    hypotheses = ["a cat sat down", "who is she ?"]
    several = [["the cat sat", "a cat sat down"], ["who is he ?"]]
    scores = evaluate_texts(hypotheses, several).candidates[0]
    filled = [[group[0] for group in several], [group[-1] for group in several]]
    # A reference that is there twice counts once.
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, filled).score)
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(hypotheses, filled).score)
    assert scores["rouge_l"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores["exact_match"] == 0.5
    one = evaluate_texts(hypotheses, [[group[0]] for group in several])
    assert one.candidates == evaluate_texts(hypotheses, filled[0]).candidates
    assert one.candidates[0]["bleu"] < scores["bleu"]
    assert "nrefs:1" in one.signatures["bleu"]
    assert "nrefs:var" in evaluate_texts(hypotheses, several).signatures["bleu"]


@pytest.mark.parametrize("preset", PRESETS)
def test_identical_candidates_change_nothing(preset):
    column = [group[0] for group in CANDIDATES]
    one = evaluate_texts(column, REFERENCES, preset=preset)
    three = evaluate_texts([[text] * 3 for text in column], REFERENCES, preset=preset, mbr=True)
    assert one.candidate_set == {}
    assert one.mbr is None
    assert three.mbr == three.candidates[2] == one.candidates[0]
    assert three.mean() == pytest.approx(one.candidates[0])


def test_mbr_scores_the_chosen_texts():
    candidates = [["x y", "a b c d", "a b c d"], ["p q r s", "z", "p q r s"]]
    report = evaluate_texts(candidates, ["a b c d", "p q r s"], mbr=True)
    assert report.mbr_choice == (1, 0)
    assert report.mbr["exact_match"] == 1.0


def test_source_copy():
    report = evaluate_texts(["a b", "c"], ["a", "c"], ["a b", "d"])
    assert report.candidates[0]["source_copy"] == 0.5
    assert "source_copy" not in evaluate_texts(["a"], ["a"]).candidates[0]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((["a", "b"], ["a"]), {}, "1 references, but hypotheses for 2"),
        ((["a"], ["a"], ["x", "y"]), {}, "2 sources, but hypotheses for 1"),
        (([], []), {}, "no candidates"),
        ((["a"], "a"), {}, "references must be a list"),
        (("ab", ["a", "b"]), {}, "hypotheses must be a list"),
        (([None], ["a"]), {}, "hypotheses: None of source 0 is no text"),
        (([["a"], ["b", 3]], ["a", "b"]), {}, "hypotheses: 3 of source 1"),
        ((["a"], [None]), {}, "references: None of source 0 is no text"),
        ((["a"], [["a", 1]]), {}, "references: 1 of source 0"),
        ((["a"], ["a"], [None]), {}, "sources: None of source 0"),
        ((["a"], ["a"], [["a"]]), {}, "sources: .'a'. of source 0"),
        ((["a"], ["a"]), {"chosen": "a"}, "chosen texts must be a list"),
        ((["a"], [[]]), {}, "an empty list of references"),
        ((["a"], [["a", "b"]]), {"preset": "diffuseq"}, "one reference a source"),
        ((["a"], ["a"]), {"mbr": True}, "at least two"),
        ((["a"], ["a"]), {"preset": "bleu"}, "there is: standard, diffuseq"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(UserError, match=message):
        evaluate_texts(*arguments, **options)


@pytest.mark.parametrize(
    ("package", "option"), [("bert_score", "bertscore_model"), ("mauve", "mauve_model")]
)
def test_missing_packages_are_named(monkeypatch, package, option):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install .*diffusion-jax\[eval\]"):
        evaluate_texts(["a"], ["a"], **{option: "model"})


def test_model_scores_call_the_packages_as_published(monkeypatch):
    calls = {}

    def score(hypotheses, references, **options):
        calls["bertscore"] = (hypotheses, references, options)
        return [0.0, 0.0], [0.0, 0.0], [0.25, 0.75]

    def compute_mauve(**options):
        calls["mauve"] = options
        return types.SimpleNamespace(mauve=0.9)

    monkeypatch.setitem(sys.modules, "bert_score", types.SimpleNamespace(score=score))
    monkeypatch.setitem(sys.modules, "mauve", types.SimpleNamespace(compute_mauve=compute_mauve))
    report = evaluate_texts(["a", "b"], ["c", "d"], bertscore_model="M", mauve_model="N")
    assert report.candidates[0]["bertscore"] == 0.5
    assert report.candidates[0]["mauve"] == 0.9
    hypotheses, references, options = calls["bertscore"]
    assert (hypotheses, references) == (["a", "b"], ["c", "d"])
    assert options["model_type"] == "M"
    assert not options["idf"]
    assert not options["rescale_with_baseline"]
    assert calls["mauve"]["p_text"] == ["c", "d"]
    several = [["c", "e"], ["d"]]
    evaluate_texts(["a", "b"], several, bertscore_model="M", mauve_model="N")
    assert calls["bertscore"][1] == several
    assert calls["mauve"]["p_text"] == ["c", "e", "d"]
    assert calls["mauve"]["featurize_model_name"] == "N"
    assert report.signatures["bertscore"] == "model M"


def test_a_model_that_is_not_there_is_named(monkeypatch):
    def score(*_, **options):
        raise OSError(f"no {options['model_type']}\nand much more")

    monkeypatch.setitem(sys.modules, "bert_score", types.SimpleNamespace(score=score))
    with pytest.raises(UserError, match="cannot load the model 'M': no M; "):
        evaluate_texts(["a"], ["a"], bertscore_model="M")
