"""``evaluate-control`` keeps the texts that it has, and goes on where it was stopped."""

import json
import shutil

import pytest

from diffusion_jax.cli import main
from diffusion_jax.control.kept import Kept, KeptTexts
from diffusion_jax.control.steer import Controller
from diffusion_jax.errors import UserError
from diffusion_jax.text.control_targets import Target


@pytest.fixture(scope="module")
def command(untrained):
    asked = ["evaluate-control", str(untrained), "--task", "length", "--num-targets", "3"]
    return [*asked, "-n", "2", "--pool", "4", "--batch-size", "2", "--steps", "2"]


def stop_after(monkeypatch, count):
    """Let a user press Ctrl-C when this many targets were written; return what is written."""
    real, written = Controller.write, []

    def write(self, targets, *arguments, **options):
        for candidates in real(self, targets, *arguments, **options):
            if len(written) == count:
                raise KeyboardInterrupt
            written.append([candidate.text for candidate in candidates])
            yield candidates

    monkeypatch.setattr(Controller, "write", write)
    return written


@pytest.fixture(scope="module")
def stopped(command, tmp_path_factory):
    """Return the directory of a measurement into c.json that was stopped after two targets."""
    directory = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2)
        assert main([*command, "-o", str(directory / "c.json")]) == 130
    return directory


def figures(path):
    """Return the rows of a measurement without what they cost."""
    rows = json.loads(path.read_text())["rows"]
    for row in rows:
        row.pop("seconds_per_text", None)
        if row["method"].startswith("rejection"):
            # How many draws fit into the time.
            row.clear()
    return rows


def test_a_stopped_measurement_goes_on(command, stopped, tmp_path, monkeypatch, capsys):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    whole, output, texts = (tmp_path / name for name in ("whole.json", "c.json", "c.texts.jsonl"))
    assert main([*command, "-o", str(whole)]) == 0
    command = [*command, "-o", str(output)]
    assert [json.loads(line)["id"] for line in texts.read_text().splitlines()] == [0, 1]
    assert not output.exists()
    with texts.open("a") as file:
        file.write('{"id": 2, "task": "len')
    assert main(command) == 2
    assert "exists" in capsys.readouterr().err
    written = stop_after(monkeypatch, 99)
    assert main([*command, "--resume"]) == 0
    assert len(written) == 1
    assert figures(output) == figures(whole)
    lines = [json.loads(line) for line in texts.read_text().splitlines()]
    assert [(line["method"], len(line["texts"])) for line in lines] == [
        *[("control", 2)] * 3,
        ("no control", 4),
    ]
    # Another task beside what is there.
    output.unlink()
    written.clear()
    assert main([*command, "--task", "infill", "--resume"]) == 0
    assert len(written) == 3
    assert figures(output)[: len(figures(whole))] == figures(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "1"], "seed: 0 -> 1"),
        (["--steps", "1"], "sampling.steps: 2 -> 1"),
        (["--pool", "5"], "pool: 4 -> 5"),
    ],
)
def test_other_texts_are_not_continued(command, stopped, tmp_path, capsys, change, message):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "c.texts.jsonl").read_bytes()
    assert main([*command, "-o", str(tmp_path / "c.json"), *change, "--resume"]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "c.texts.jsonl").read_bytes() == before


def test_fewer_targets_take_what_is_kept(command, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    output = ["-o", str(tmp_path / "c.json"), "--num-targets", "2", "--resume"]
    assert main([*command, *output]) == 0


def test_what_cannot_be_continued_is_refused(command, tmp_path, capsys):
    assert main([*command, "--resume"]) == 2
    assert "give --output FILE" in capsys.readouterr().err
    mine = tmp_path / "c.texts.jsonl"
    mine.write_text("my own notes")
    assert main([*command, "-o", str(tmp_path / "c.json"), "--resume"]) == 2
    assert "was not begun by evaluate-control" in capsys.readouterr().err
    assert mine.read_text() == "my own notes"


def test_texts_come_back_as_they_were_kept(tmp_path):
    path = tmp_path / "texts.jsonl"
    targets = [Target(length=5), Target(length=6)]
    kept = KeptTexts(path)
    for target, text in zip(targets, ("a café", "line\u2028end")):
        kept.add("length", "control", target, Kept([text, "b"], 0.5, 1))
    again = KeptTexts(path)
    assert again.of("length", "control", targets) == kept.of("length", "control", targets)
    assert again.of("length", "control", targets)[1] == Kept(["line\u2028end", "b"], 0.5, 1)
    assert again.of("length", "other", targets) == []
    assert len(again) == 2
    with pytest.raises(UserError, match=r"other targets \(length, target 1: .*'length': 6"):
        again.of("length", "control", [targets[0], Target(length=7)])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 0}', "not of texts"),
        ("[1]", "must be an object"),
        ("{", "invalid JSON"),
        ('{"id": 3, "task": "a", "method": "b"}', "target 3 comes after 0"),
    ],
)
def test_a_line_of_something_else_is_refused(line, message, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        KeptTexts(path)
