"""Run directories: in use, of something else, of another run, damaged; nothing there is lost."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from tests.integration.small import FILE


def test_directories_in_use_are_left_alone(refused, run_copy, tmp_path):
    train = ("train", FILE, "--scale", "text", "-w")
    assert "already holds a run; continue it with --resume" in refused(*train, run_copy())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("do not lose this")
    assert "is not empty (thesis.tex ...)" in refused(*train, tmp_path / "mine")
    assert "is not empty" in refused(*train, tmp_path / "mine", "--resume")
    assert "is a file" in refused(*train, tmp_path / "mine" / "thesis.tex")
    assert "Not a directory" in refused(*train, tmp_path / "mine" / "thesis.tex" / "run")


def test_a_bucket_is_no_directory(refused, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = refused("train", FILE, "--scale", "text", "-w", "gs://bucket/run")
    assert "gs://bucket/run is an address" in message
    assert "is an address" in refused("sample", "gs://bucket/run")


def test_other_rows_are_noticed_before_the_first_checkpoint(refused, run_copy):
    path = run_copy()
    shutil.rmtree(path / "checkpoints")
    (path / "rows.json").write_text('{"rows": "12345678"}')
    message = refused("train", FILE, "--scale", "text", "--resume", "-w", path)
    assert "checksum of its rows 12345678 then" in message


def test_files_in_a_directory_without_a_run_are_not_replaced(train_refused, refused, tmp_path):
    (tmp_path / "w" / "tokenizer").mkdir(parents=True)
    (tmp_path / "w" / "tokenizer" / "vocab.json").write_text('{"MY": "precious"}')
    assert "is not this run's tokenizer; move it away" in train_refused()


def test_a_finished_run_may_find_its_corpus_elsewhere_but_the_same(refused, run_copy, tmp_path):
    path, none = run_copy(), tmp_path / "none.txt"
    resume = ("train", FILE, "--scale", "text", "--resume", "-w", path)
    # A difference is said before the corpus is opened, which is not there.
    message = refused(*resume, "--data.corpus", none, "--optim.learning-rate", "0.5")
    assert "optim.learning_rate: 0.01 -> 0.5" in message
    # Nothing tells here what the rows were.
    assert "data.corpus: " in refused(*resume, "--data.corpus", none)
    (path / "rows.json").write_text('{"rows": "12345678"}')
    assert "none.txt: no such file" in refused(*resume, "--data.corpus", none)
    (tmp_path / "other.txt").write_text("the pub is nice .\n" * 99)
    other = refused(*resume, "--data.corpus", tmp_path / "other.txt")
    assert "checksum of its rows 12345678 then" in other


def test_a_run_is_not_resumed_with_another_configuration(refused, run_copy):
    resume = ("train", FILE, "--scale", "text", "--resume", "-w", run_copy())
    message = refused(*resume, "--optim.learning-rate", "0.5")
    assert "optim.learning_rate: 0.01 -> 0.5" in message
    assert "choose another --workdir" in message
    assert "train.steps: 20 -> 21" in refused(*resume, "--train.steps", "21")


@pytest.mark.parametrize("command", ["sample", "describe", "likelihood", "generate"])
def test_what_is_no_run_is_refused(refused, tmp_path, command):
    (tmp_path / "sources.txt").write_text("a b\n")
    (tmp_path / "empty").mkdir()
    more = ["--input", tmp_path / "sources.txt"] if command == "generate" else []
    assert "does not exist" in refused(command, tmp_path / "none", *more)
    assert "holds no config.json" in refused(command, tmp_path / "empty", *more)
    assert "is not a run directory" in refused(command, tmp_path / "sources.txt", *more)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "config.json: the configuration is not valid JSON"),
        (b"\xff\xfe", "config.json: 'utf-8' codec"),
        (b"[]", "config.json: the configuration is a JSON list"),
        (b'{"modle": {}}', "unknown configuration field modle; did you mean model?"),
        (b'{"model": {"num_layers": "two"}}', "model.num_layers = 'two'"),
    ],
)
def test_a_damaged_configuration(refused, run_copy, content, message):
    path = run_copy()
    (path / "config.json").write_bytes(content)
    assert message in refused("sample", path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{", "not a tokenizer description"),
        ("tokenizer.json", b'{"kind": "word", "options": {"colour": 1}}', "tokenizer.json"),
        ("tokenizer.json", b'{"kind": "runes", "options": {}}', "unknown tokenizer kind"),
        ("vocab.json", b'{"START": 0}', "vocab.json"),
        ("vocab.json", None, "vocab.json: no such file"),
    ],
)
def test_a_damaged_tokenizer(refused, run_copy, name, content, message):
    path = run_copy()
    target = path / "tokenizer" / name
    assert target.exists()
    target.unlink() if content is None else target.write_bytes(content)
    assert message in refused("sample", path)


def test_a_vocabulary_that_does_not_fit_the_checkpoint(refused, run_copy):
    path = run_copy()
    vocabulary = json.loads((path / "tokenizer" / "vocab.json").read_text())
    *_, last, other = vocabulary
    vocabulary[last], vocabulary[other] = vocabulary[other], vocabulary[last]
    (path / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    assert "does not fit the checkpoint" in refused("sample", path)


def test_checkpoints_that_are_missing_or_damaged(refused, run_copy):
    path = run_copy()
    assert "no checkpoint of step 7" in refused("sample", path, "--checkpoint-step", "7")
    assert "ema 0.5" in refused("sample", path, "--weights", "ema 0.5")
    for part in (path / "checkpoints" / "1").rglob("*"):
        if part.is_file():
            part.write_bytes(b"")
    assert "no checkpoint can be read" in refused("sample", path)
    shutil.rmtree(path / "checkpoints")
    assert "holds no checkpoint" in refused("sample", path)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_reading_a_run_runs_no_code_from_it(refused, run_copy, tmp_path):
    path = run_copy()
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    pickle.loads(bomb)
    (tmp_path / "exploded").unlink()
    (path / "sitecustomize.py").write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')")
    for target in ["config.json", "tokenizer/tokenizer.json", "tokenizer/vocab.json"]:
        original = (path / target).read_bytes()
        (path / target).write_bytes(bomb)
        refused("sample", path)
        (path / target).write_bytes(original)
    for part in (path / "checkpoints" / "1").rglob("*"):
        if part.is_file():
            part.write_bytes(bomb)
    refused("sample", path)
    assert not (tmp_path / "exploded").exists()
