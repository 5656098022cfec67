"""Classifiers and the autoregressive Transformer, trained by their commands."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import classifier_run, classifier_training
from diffusion_jax.autoregressive_run import TrainedAutoregressive
from diffusion_jax.classifier_run import TrainedClassifier
from diffusion_jax.cli import main
from diffusion_jax.control.teacher import load_fluency
from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.text_scores import TextScore, summarise
from diffusion_jax.text.labelled import LabelledRows
from diffusion_jax.text.trees import check_nested
from diffusion_jax.workdir import Workdir
from tests.integration.small import write_untrained
from tests.integration.test_training import compiled_once, metrics

__all__ = ["compiled_once"]

TINY = ["--model.hidden-dim", "8", "--model.num-layers", "1", "--model.num-heads", "2"]
TINY += ["--model.mlp-dim", "8", "--train.batch-size", "16", "--train.log-every", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {scale: str(write_untrained(root / scale, scale)) for scale in ("text", "pair")}


def run(*arguments):
    return main([str(argument) for argument in arguments])


def classify(task, checkpoint, workdir, *more):
    command = ["train-classifier", "--task", task, "--checkpoint", checkpoint]
    return run(*command, "--workdir", workdir, *TINY, *more)


@pytest.mark.parametrize(
    ("scale", "more", "message"),
    [
        ("pair", [], "writes targets for sources"),
        ("text", ["--corpus", "none.jsonl"], "no such file"),
        ("text", ["--corpus", "plain.txt"], "no 'tree'"),
        ("text", ["--steps", "3", "--train.steps", "4"], "give one of them"),
        ("text", ["--train.preview-every", "5"], "a classifier writes no samples"),
        ("text", ["--attributes", "said"], '"given" for tags and trees'),
    ],
)
def test_a_classifier_that_cannot_be_is_refused(
    runs, tmp_path, monkeypatch, capsys, scale, more, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.txt").write_text("the red barn is a pub .\n")
    assert classify("tree", runs[scale], "new", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_labels_as_said_are_those_of_the_words(runs, tmp_path, monkeypatch):
    learned = []

    def train(config, base, workdir, *, resume):
        learned.append(classifier_training._labelled(config, base.tokenizer, None))
        return classifier_training.ClassifierResult(None, None, None)

    monkeypatch.setattr(classifier_training, "train_classifier", train)
    texts = ("the red barn serves thai food .", "the red barn is a pub .")
    lines = [{"text": text, "attributes": {"dish": "thai"}} for text in texts]
    labelled = tmp_path / "labelled.jsonl"
    labelled.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for more in ([], ["--attributes", "said"]):
        files = ["--corpus", labelled, "--validation", labelled]
        assert classify("attribute", runs["text"], tmp_path / "new", *files, *more) == 0
    given, said = (tables for _, *tables in learned)
    assert [rows.targets.tolist() for rows in given] == [[[1], [1]]] * 2
    assert [rows.targets.tolist() for rows in said] == [[[1], [0]]] * 2


def test_one_kind_of_run_is_not_another(runs, tmp_path, capsys):
    with pytest.raises(UserError, match="of kind 'diffusion', but 'classifier'"):
        TrainedClassifier.load(runs["text"])
    assert run("score", "--teacher", runs["text"], "--texts", __file__) == 2
    assert "'autoregressive' is needed" in capsys.readouterr().err
    like = ["train-ar", "--like", runs["text"], "--data.length", 9, "-w", tmp_path / "new"]
    assert run(*like) == 2
    assert "leave out --data" in capsys.readouterr().err


def test_means_of_scores():
    means = summarise([TextScore(6.0, 2, 0), TextScore(10.0, 6, 1)])
    assert means == (2, 8, 1 / 8, 8.0, 2.0, 2.0)
    with pytest.raises(UserError, match="no text"):
        summarise([])


@pytest.mark.slow
def test_a_classifier_over_a_stop_fits_its_run_and_no_other(runs, tmp_path, capsys, monkeypatch):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    more = ["--train.steps", "6", "--train.checkpoint-every", "3"]
    assert classify("tree", runs["text"], straight, *more) == 0
    assert "accuracy of the tree classifier on 16 held-out rows" in capsys.readouterr().out
    # As if it had been killed after step 3.
    shutil.copytree(straight, resumed)
    assert Workdir(resumed).checkpoints().steps() == [3, 6]
    shutil.rmtree(resumed / "checkpoints" / "6")
    assert classify("tree", runs["text"], resumed, *more, "--resume") == 0
    assert metrics(resumed) == metrics(straight)
    # Other rows than it was begun with are noticed.
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(LabelledRows, "checksum", 1)
        assert classify("tree", runs["text"], resumed, *more, "--resume") == 2
    assert "the training data is not what it was" in capsys.readouterr().err

    trained = TrainedClassifier.load(resumed)
    accuracy = json.loads((resumed / "accuracy.json").read_text())
    assert [part["first_t"] for part in accuracy["bins"]] == [-1, *range(0, 20, 2)]
    assert "<svg" in (resumed / "accuracy.svg").read_text()
    base = Workdir(runs["text"])
    config, params = base.read_config(), base.read_params(base.read_config())
    trained.check_fits(params, config)
    other = {**params, "embedding": params["embedding"] + 1e-6}
    with pytest.raises(UserError, match="trained on other embeddings"):
        trained.check_fits(other, config)

    ids = np.asarray([[0, 4, 5, 6, 1, *[3] * 13]])
    x, time = params["embedding"][ids], jnp.zeros(1)
    (tree,) = classifier_run.read_trees(trained, x, time, [3])
    check_nested(tree, 3)
    wanted = classifier_run.span_targets(trained, [[(0, 1, "NP")]])
    value = classifier_run.tree_log_prob(trained, wanted)(x, time)
    number = trained.labels.labels.index("NP")
    expected = jax.nn.log_softmax(trained.logits(x, time)[0, 1, 2])[number]
    np.testing.assert_allclose(value[0], expected, rtol=1e-5)
    with pytest.raises(UserError, match="for the task 'tree'"):
        classifier_run.pos_targets(trained, [["NOUN"]])


@pytest.mark.slow
def test_a_classifier_of_estimates_learns_from_its_denoiser_and_fits_no_other(runs, tmp_path):
    shown = tmp_path / "shown"
    more = ["--train.steps", "3", "--train.validate-every", "3"]
    assert classify("pos", runs["text"], shown, *more) == 0
    trained = TrainedClassifier.load(shown)
    assert trained.reads_estimates
    base = Workdir(runs["text"])
    config = base.read_config()
    params = base.read_params(config)
    trained.check_fits(params, config)
    # The same embeddings, another network.
    with pytest.raises(UserError, match="estimates of another denoiser"):
        trained.check_fits({**params, "head_bias": params["head_bias"] + 1}, config)
    # What it is shown decides what it learns.
    state = tmp_path / "state"
    assert classify("pos", runs["text"], state, *more, "--reads", "state") == 0
    losses = [[row.get("nll") for row in metrics(path)] for path in (shown, state)]
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_a_teacher_scores_texts_and_a_baseline_writes_for_controls(runs, tmp_path, capsys):
    teacher, steps = tmp_path / "teacher", ["--steps", "4", "--train.preview-every", "0"]
    assert run("train-ar", "--like", runs["text"], "-w", teacher, *TINY, *steps) == 0
    texts = tmp_path / "texts.txt"
    texts.write_text("the red barn is a pub .\nthe golden fox is an inn .\n")
    capsys.readouterr()
    assert run("score", "--teacher", teacher, "--texts", texts) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["tokens"] for row in rows] == [7, 7]
    trained = TrainedAutoregressive.load(teacher)
    alone = trained.score([rows[1]["text"]])[0]
    assert rows[1]["nats"] == pytest.approx(alone.nats, rel=1e-5)
    with pytest.raises(UserError, match="text 1: a text of 17 tokens"):
        trained.score(["the " * 17])
    with pytest.raises(UserError, match="takes no sources"):
        trained.score(["the"], ["the"])
    # A text that fills its row and never ends is scored without its end.
    long = " ".join(["the red barn is a pub"] * 4)
    full, cut = trained.score([long, " ".join(long.split()[:17])], truncate=True)
    assert full == cut
    assert full.tokens == 17
    assert load_fluency(teacher)([long]) == pytest.approx(full.nats / 17, rel=1e-5)
    texts.write_text(long + "\n")
    assert run("score", "--teacher", teacher, "--texts", texts) == 2
    assert run("score", "--teacher", teacher, "--texts", texts, "--truncate") == 0

    baseline = tmp_path / "baseline"
    prefix = ["--prefix", "attributes", "--data.length", 44, "--data.size", 64]
    prefix += ["--data.validation-size", 16, "--tokenizer.min-count", 0]
    assert run("train-ar", "-w", baseline, *prefix, *TINY, *steps) == 0
    writer = TrainedAutoregressive.load(baseline)
    controls = ["name : red barn | food : thai", "name : red barn"]
    both = writer.generate(controls, temperature=1.0)
    assert len(both) == 2
    assert writer.generate(controls, temperature=1.0) == both
    with pytest.raises(UserError, match="use generate"):
        writer.sample(1)
    with pytest.raises(UserError, match="not cut"):
        writer.score(both, controls, truncate=True)
