"""``evaluate-control``: what it is given reaches what it measures with."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from diffusion_jax import classifier_training
from diffusion_jax.cli import evaluate_control, main
from diffusion_jax.config import ClassifierRunConfig, DataConfig
from diffusion_jax.control import annotators, teacher
from diffusion_jax.control.judge import Annotation
from diffusion_jax.control.measure import Measurement, Row, Writer, common_controls
from diffusion_jax.control.table import PUBLISHED, PUBLISHED_MEASURES, table
from diffusion_jax.control.tasks import draw_targets
from diffusion_jax.errors import UserError
from diffusion_jax.models.shape import ClassifierConfig
from diffusion_jax.text.control_targets import Target
from diffusion_jax.text.corpora import open_corpus
from diffusion_jax.workdir import Workdir
from tests.integration.small import config, write_untrained

TEXTS = "the pub is nice .\nthe inn is cheap .\nthe pub serves thai food .\n"


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    """Return the path of an untrained run on a file of texts, and of held-out texts."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "train.txt").write_text(TEXTS * 20)
    (folder / "held.txt").write_text(TEXTS)
    asked = config("text")
    data = replace(asked.data, corpus=str(folder / "train.txt"), size=0)
    return write_untrained(folder / "run", "text", replace(asked, data=data)), folder / "held.txt"


@pytest.fixture
def measured(monkeypatch):
    """Keep every measurement that is begun, and end it there."""
    begun = []

    def rows(self, task, targets):
        begun.append((self, task, targets))
        return iter(())

    monkeypatch.setattr(Measurement, "rows", rows)
    return begun


def test_the_tagger_judges_texts_that_no_grammar_knows(text_run, measured, monkeypatch, capsys):
    def annotate(tokens):
        return Annotation(pos=["X"] * len(tokens), spans=None)

    asked = []
    monkeypatch.setattr(
        annotators, "spacy_annotator", lambda *names: asked.append(names) or annotate
    )
    run, held = text_run
    command = ["evaluate-control", str(run), "--task", "length", "--num-targets", "2"]
    command += ["-n", "1", "--data", str(held)]
    assert main([*command, "--tagger", "small", "--parser", "tall"]) == 0
    assert asked == [("small", "tall")]
    judge = measured[0][0].judge
    assert judge("the pub", Target(pos=("X", "X"))).all_hold() is True
    assert judge("the pub", Target(pos=("X", "DET"))).all_hold() is False
    assert main([*command, "--parser", "tall"]) == 2
    assert "give --tagger" in capsys.readouterr().err


def test_the_grammar_needs_no_tagger(untrained, measured, capsys):
    command = ["evaluate-control", str(untrained), "--task", "length", "--tagger", "small"]
    assert main(command) == 2
    assert "leave --tagger out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-hole", "3", "--max-hole", "2"], "--min-hole 3"),
        (["--steps", "99999"], "at most diffusion.timesteps"),
        (["--num-targets", "99999"], "fewer than the 99999"),
        (["--teacher", "nowhere"], "nowhere"),
        (["--checkpoint-step", "7"], "no checkpoint of step 7"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_said_before_a_classifier_is_trained(
    untrained, monkeypatch, capsys, options, message
):
    monkeypatch.setattr(
        classifier_training, "train_classifier", lambda *_, **__: pytest.fail("was trained")
    )
    command = ["evaluate-control", str(untrained), "--task", "attribute", "--train-missing"]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err


def test_the_classifier_is_trained_on_the_checkpoint_that_is_steered(untrained, monkeypatch):
    read = []
    base = SimpleNamespace()
    monkeypatch.setattr(
        classifier_training, "read_base", lambda *_, **options: read.append(options) or base
    )
    monkeypatch.setattr(classifier_training, "classifier_config", lambda *_, **__: None)
    monkeypatch.setattr(classifier_training, "train_classifier", lambda *_, **__: None)
    evaluate_control._train_missing(
        evaluate_control.EvaluateControlCommand(
            checkpoint=str(untrained), task=("pos",), weights="params", checkpoint_step=1
        )
    )
    assert read == [{"weights": "params", "step": 1}]


def test_a_baseline_that_serves_no_task_is_refused(untrained, measured, monkeypatch, capsys):
    writer = Writer("told", "attribute", lambda *_: [])
    monkeypatch.setattr(teacher, "load_writer", lambda path: writer)
    command = ["evaluate-control", str(untrained), "--autoregressive", "runs/ar", "--task"]
    assert main([*command, "length"]) == 2
    assert "runs/ar is told attribute, and no task asks for that alone" in capsys.readouterr().err


def test_a_file_of_targets_is_known_by_what_it_asks(untrained, measured, monkeypatch, tmp_path):
    writer = Writer("told", "length", lambda *_: [])
    monkeypatch.setattr(teacher, "load_writer", lambda path: writer)
    path = tmp_path / "mine.jsonl"
    path.write_text('{"length": 5}\n{"length": 6}\n')
    command = ["evaluate-control", str(untrained), "--autoregressive", "runs/ar"]
    assert main([*command, "--targets", str(path)]) == 0
    (run, task, targets) = measured[0]
    assert task == "mine.jsonl"
    assert common_controls(targets) == ("length",)
    assert run.writers == [writer]
    assert common_controls([*targets, Target(keep="the ___")]) == ()
    assert common_controls([Target(attributes={"a": "b"}, length=4)]) == ("attribute", "length")


def test_published_figures_stand_under_what_they_measure():
    def row(task, *controls):
        return Row(task, "control", controls, targets=1, samples=1, success=0.5)

    rows = [row("mine.jsonl", "pos"), row("span", "span"), row("attribute+pos", "attribute", "pos")]
    text = table(rows, published=True)
    published = "| Diffusion-LM, published (E2E) |"
    assert f"| mine.jsonl {published}  | | | tags 90.0, perplexity under GPT-2 5.16 | |" in text
    assert f"| span {published} 93.8 | | | perplexity under GPT-2 2.53 | |" in text
    assert text.count("published") == 6
    assert "published" not in table(rows)
    assert set(PUBLISHED_MEASURES) == set(PUBLISHED) - {"span"}


def test_holes_are_marked_as_the_user_marks_them(controller):
    corpus = open_corpus("grammar:small", split="test", size=50)
    drawn = [
        draw_targets("infill", corpus, 5, 0, controller.tokenizer, mask=mask)
        for mask in ("___", "[x]")
    ]
    assert [t.keep.replace("___", "[x]") for t in drawn[0]] == [t.keep for t in drawn[1]]


def test_what_is_missing_is_trained_on_the_corpus_that_is_named(untrained, monkeypatch):
    learned = []
    monkeypatch.setattr(
        classifier_training, "train_classifier", lambda config, *_, **__: learned.append(config)
    )
    asked = evaluate_control.EvaluateControlCommand(
        checkpoint=str(untrained), task=("pos",), classifier_corpus="labelled.jsonl"
    )
    evaluate_control._train_missing(asked)
    evaluate_control._train_missing(replace(asked, classifier_corpus=None))
    base = Workdir(untrained).read_config().data
    assert [config.data.corpus for config in learned] == ["labelled.jsonl", base.corpus]
    # The row is the run's; how many examples it read is not.
    assert (learned[0].data.length, learned[0].data.size) == (base.length, 0)


def test_a_corpus_that_no_classifier_learns_from_is_refused(
    untrained, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(
        classifier_training, "train_classifier", lambda *_, **__: pytest.fail("was trained")
    )
    run = tmp_path / "run"
    run.symlink_to(untrained)
    command = ["evaluate-control", str(run), "--classifier-corpus", "mine.jsonl"]
    assert main([*command, "--task", "pos"]) == 2
    assert "is what --train-missing learns from" in capsys.readouterr().err
    assert main([*command, "--task", "length", "--train-missing"]) == 2
    assert "nothing is trained on --classifier-corpus mine.jsonl" in capsys.readouterr().err
    # A classifier that is there already is used again where it learned from this corpus.
    (tmp_path / "run-pos-estimate").mkdir()
    learned = ClassifierRunConfig(
        model=ClassifierConfig(task="pos"), data=DataConfig(corpus="other.jsonl")
    )
    Workdir(tmp_path / "run-pos-estimate").write_config(learned)
    monkeypatch.setattr(Workdir, "checkpoints", lambda self: SimpleNamespace(steps=lambda: [3000]))
    asked = evaluate_control.EvaluateControlCommand(
        checkpoint=str(run), task=("pos",), classifier_corpus="mine.jsonl"
    )
    with pytest.raises(UserError, match=r"was trained on other\.jsonl, not on --classifier-corpus"):
        evaluate_control._train_missing(asked)
    evaluate_control._train_missing(replace(asked, classifier_corpus="other.jsonl"))


def test_targets_of_a_file_fit_the_rows_of_the_model(text_run, measured, tmp_path):
    held = tmp_path / "long.txt"
    held.write_text(TEXTS + "the pub is nice . " * 4 + "\n")
    command = ["evaluate-control", str(text_run[0]), "--task", "length", "--data", str(held)]
    assert main([*command, "-n", "1", "--num-targets", "3"]) == 0
    assert sorted(target.length for target in measured[0][2]) == [5, 5, 6]
    assert main([*command, "-n", "1", "--num-targets", "4"]) == 2
