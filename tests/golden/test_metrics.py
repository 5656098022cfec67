"""DiffuSeq's evaluation and both published choices among candidates, against the originals."""

import json

import numpy as np
import pytest

from diffusion_jax.evaluate.diversity import distinct_n, div_n
from diffusion_jax.evaluate.overlap import rouge_l
from diffusion_jax.evaluate.presets import PRESETS
from diffusion_jax.evaluate.report import evaluate_texts
from diffusion_jax.mbr import RULES, mbr_scores, mbr_select, pairwise_utility
from tests.golden.torch_params import DATA

METRICS = json.loads((DATA / "metrics.json").read_text(encoding="utf-8"))
SETS = METRICS["sets"]
DLM_SETS = json.loads((DATA / "dlm_mbr.json").read_text(encoding="utf-8"))["sets"]
# Numbers are at most 4: a unit in the last place.
LAST_DIGIT = 1e-15


def recorded(name):
    return np.array([entry[name] for entry in SETS])


@pytest.fixture(scope="module")
def report():
    return evaluate_texts(
        [entry["candidates"] for entry in SETS],
        [entry["reference"] for entry in SETS],
        preset="diffuseq",
        mbr=True,
    )


def test_cleaning():
    preset = PRESETS["diffuseq"]
    for entry in SETS:
        assert preset.clean_given(entry["source"]) == entry["cleaned"]["source"]
        assert preset.clean_given(entry["reference"]) == entry["cleaned"]["reference"]
        cleaned = [preset.clean_hypothesis(text) for text in entry["candidates"]]
        assert cleaned == entry["cleaned"]["candidates"]


def test_sentence_scores():
    groups = [[*e["cleaned"]["candidates"], e["cleaned"]["reference"]] for e in SETS]
    scores = pairwise_utility(groups, "nltk_bleu")
    np.testing.assert_allclose(
        scores[:, :5, :5], recorded("pairwise_bleu"), rtol=0, atol=LAST_DIGIT
    )
    np.testing.assert_allclose(scores[:, :5, 5], recorded("bleu"), rtol=0, atol=LAST_DIGIT)


def test_scores_of_single_texts():
    for entry in SETS:
        reference = entry["cleaned"]["reference"]
        for text, rouge, dist1 in zip(
            entry["cleaned"]["candidates"], entry["rouge_l"], entry["dist1"], strict=True
        ):
            assert rouge_l([text], [reference], np.float32) == rouge
            assert distinct_n([text], 1) == dist1
        assert div_n([entry["cleaned"]["candidates"]]) == entry["div4"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("bleu", "avg BLEU score"),
        ("rouge_l", "avg ROUGE-L score"),
        ("dist_1", "avg dist1 score"),
        ("length", "avg len"),
    ],
)
def test_whole_script_per_file(report, ours, theirs):
    values = [scores[ours] for scores in report.candidates]
    np.testing.assert_allclose(
        values, METRICS["script_output_no_mbr"][theirs], rtol=0, atol=LAST_DIGIT
    )


def test_whole_script_diversity(report):
    printed = METRICS["script_output_no_mbr"]
    assert report.candidate_set["div_4"] == printed["avg div4 score"][0]
    assert report.candidate_set["self_bleu"] == pytest.approx(
        printed["avg selfBleu score"][0], rel=0, abs=LAST_DIGIT
    )


def test_whole_script_mbr(report):
    printed = METRICS["script_output_mbr"]
    assert report.mbr_choice == tuple(recorded("mbr_index"))
    assert report.mbr["bleu"] == pytest.approx(printed["avg BLEU score"][5], abs=LAST_DIGIT)
    assert report.mbr["rouge_l"] == pytest.approx(printed["avg ROUGE-l score"][0], abs=LAST_DIGIT)
    assert report.mbr["dist_1"] == pytest.approx(printed["avg dist1 score"][5], abs=LAST_DIGIT)


def test_mbr_sums_of_diffuseq():
    candidates = [entry["cleaned"]["candidates"] for entry in SETS]
    sums = 4 * mbr_scores(candidates, "nltk_bleu")
    np.testing.assert_allclose(sums, recorded("mbr_sums"), rtol=LAST_DIGIT, atol=LAST_DIGIT)


def test_mbr_of_diffusion_lm():
    candidates = [entry["candidates"] for entry in DLM_SETS]
    rule = RULES["diffusion_lm"]
    utility = pairwise_utility(candidates, rule.utility)
    expected = np.array([entry["utility_sys_ref"] for entry in DLM_SETS])
    np.testing.assert_allclose(utility, expected, rtol=1e-14)
    np.testing.assert_allclose(
        mbr_scores(candidates, rule.utility, role=rule.role),
        [entry["mean_utility"] for entry in DLM_SETS],
        rtol=1e-14,
    )
    chosen = mbr_select(candidates, rule.utility, role=rule.role, ties=rule.ties)
    for entry, index in zip(DLM_SETS, chosen, strict=True):
        assert entry["candidates"][index] == entry["mbr_best"]
