"""Runs that keep the line end as the last word of every text (E2E): labels and targets for them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from diffusion_jax import classifier_training
from diffusion_jax.cli import main
from diffusion_jax.config import DataConfig
from diffusion_jax.control.judge import Annotation, TextJudge
from diffusion_jax.control.tasks import draw_targets, held_out
from diffusion_jax.experiment import open_data
from diffusion_jax.text.labelled import build_labelled
from diffusion_jax.text.labels import collect_labels
from diffusion_jax.text.rows import Packing
from diffusion_jax.workdir import Workdir
from tests.integration.small import config, write_untrained

LINES = [
    "name : The Mill | food : Thai||The Mill is cheap . \n",
    "name : Fox||Fox is a pub . \n",
]
LABELLED = [
    {
        "text": "The Mill is cheap .",
        "attributes": {"name": "The Mill", "food": "Thai"},
        "pos": "DET PROPN AUX ADJ PUNCT",
        "spans": [[0, 4, "S"], [0, 1, "NP"], [2, 3, "VP"]],
    },
    {
        "text": "Fox is a pub .",
        "attributes": {"name": "Fox"},
        "pos": "PROPN AUX DET NOUN PUNCT",
        "tree": "(S (NP (NNP Fox)) (VP (VBZ is) (NP (DT a) (NN pub))) (. .))",
    },
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the folder of an E2E file, and of labels for the same texts as JSON lines."""
    folder = tmp_path_factory.mktemp("e2e")
    (folder / "train.txt").write_text("".join(LINES * 4))
    (folder / "valid.txt").write_text("".join(LINES))
    lines = "".join(json.dumps(line) + "\n" for line in LABELLED)
    (folder / "labelled.jsonl").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def e2e(files):
    """Return the path of an untrained run on the E2E file."""
    asked = config("text")
    names = {"corpus": str(files / "train.txt"), "validation": str(files / "valid.txt")}
    data = replace(asked.data, **names, keep_newline=True, size=0)
    return write_untrained(files / "run", "text", replace(asked, data=data))


@pytest.mark.parametrize("task", ["attribute", "pos", "tree"])
def test_a_classifier_learns_from_rows_that_look_as_the_runs_do(task, e2e, files, monkeypatch):
    learned = []

    def train(config, base, workdir, *, resume):
        learned.append(classifier_training._labelled(config, base.tokenizer, None))
        return classifier_training.ClassifierResult(None, None, None)

    monkeypatch.setattr(classifier_training, "train_classifier", train)
    command = ["train-classifier", "--task", task, "--checkpoint", str(e2e), "--workdir", "new"]
    labelled = str(files / "labelled.jsonl")
    assert main([*command, "--corpus", labelled, "--validation", labelled]) == 0
    _, rows, validation = learned[0]
    run = Workdir(e2e)
    own = open_data(run.read_config(), run.read_tokenizer()).train
    np.testing.assert_array_equal(rows.input_ids, own.rows(np.arange(2))["input_ids"])
    np.testing.assert_array_equal(validation.input_ids, rows.input_ids)


def test_the_line_end_has_a_tag_and_belongs_to_no_constituent(e2e, files):
    corpus = held_out(Workdir(e2e).read_config().data, str(files / "labelled.jsonl"), 0)
    assert [example.text[-3:] for example in corpus] == [". \n"] * 2
    tokenizer = Workdir(e2e).read_tokenizer()

    def targets(task):
        labels = collect_labels(task, iter(corpus), "")
        rows = build_labelled(corpus, tokenizer, Packing(10), labels)
        return labels, rows.rows(np.arange(2))["targets"]

    labels, tags = targets("pos")
    assert [labels.tags[i] for i in tags[0, 5:8]] == ["PUNCT", "X", "END"]
    labels, charts = targets("tree")
    s = labels.labels.index("S")
    # START, five words, the line end.
    assert charts[:, 1, 5].tolist() == [s, s]
    assert not (charts[:, :, 6] > 0).any()


def test_a_text_obeys_what_was_drawn_from_it(e2e, files):
    tokenizer = Workdir(e2e).read_tokenizer()
    corpus = held_out(Workdir(e2e).read_config().data, str(files / "labelled.jsonl"), 0)
    known = {
        "The": Annotation(("DET", "PROPN", "AUX", "ADJ", "PUNCT", "X"), LABELLED[0]["spans"]),
        "Fox": Annotation(
            ("PROPN", "AUX", "DET", "NOUN", "PUNCT", "X"),
            [(0, 4, "S"), (0, 0, "NP"), (1, 3, "VP"), (2, 3, "NP")],
        ),
    }
    known["The"] = known["The"]._replace(spans=[tuple(span) for span in known["The"].spans])
    judge = TextJudge(tokenizer, annotator=lambda words: known[words[0]])
    for task in ("pos", "tree", "span", "length", "infill", "pos+tree+length"):
        targets = draw_targets(task, corpus, 2, 0, tokenizer)
        assert {target.fixed_length() for target in targets} <= {6, None}
        assert all(judge(target.reference, target).all_hold() for target in targets), task


def test_labels_that_count_the_line_end_say_what_the_others_do(e2e, files, tmp_path):
    counted = tmp_path / "counted.jsonl"
    more = {
        "pos": "DET PROPN AUX ADJ PUNCT PROPN",
        "spans": [[0, 5, "S"], [0, 1, "NP"], [2, 3, "VP"]],
    }
    tree = {"tree": "(S (NP (NNP Fox)) (VP (VBZ is) (NP (DT a) (NN pub))) (. .) (_SP \n))"}
    lines = [{**LABELLED[0], **more}, {**LABELLED[1], **tree}]
    counted.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data, tokenizer = Workdir(e2e).read_config().data, Workdir(e2e).read_tokenizer()
    for task in ("pos", "tree"):
        rows = []
        for path in (counted, files / "labelled.jsonl"):
            corpus = held_out(data, str(path), 0)
            labels = collect_labels(task, iter(corpus), "")
            rows.append(build_labelled(corpus, tokenizer, Packing(10), labels))
        assert rows[0].labels == rows[1].labels
        assert rows[0].checksum == rows[1].checksum


def test_held_out_texts_are_read_as_the_run_reads_them(tmp_path):
    path = tmp_path / "held.csv"
    path.write_text("kind,said,note\nx,the pub .,a\ny,the inn .,b\n")
    data = DataConfig(
        corpus="train.csv", validation=str(path), columns=("said",), where=("kind=y",)
    )
    assert [example.text for example in held_out(data, "", 0)] == ["the inn ."]
    # Options of the run's own files that another does not have.
    plain = tmp_path / "held.txt"
    plain.write_text("the inn .\n")
    data = replace(data, validation=str(plain), keep_newline=True)
    assert [example.text for example in held_out(data, "", 0)] == ["the inn . \n"]
