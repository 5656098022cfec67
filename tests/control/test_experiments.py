"""The scripts that go from a checkpoint to a table: what they hand on, and what they refuse."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffusion_jax.control.steer import Controller
from diffusion_jax.errors import UserError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ANLG = runpy.run_path(str(EXPERIMENTS / "anlg_infill.py"))["main"]
LINE = {"obs1": "the fox .", "obs2": "it is good .", "hyps": ["it serves food .", "it is cheap ."]}


@pytest.mark.parametrize(
    "path", sorted((EXPERIMENTS / "control").glob("*.py")), ids=lambda p: p.stem
)
@pytest.mark.parametrize("given", [[], ["--targets", "t.jsonl"], ["--targets=t.jsonl"]], ids=str)
def test_targets_that_are_given_take_the_place_of_the_task(path, given, monkeypatch):
    calls = []
    monkeypatch.setattr("diffusion_jax.cli.entry", lambda arguments: calls.append(arguments))
    monkeypatch.setattr(sys, "argv", [str(path), "runs/e2e", *given])
    with pytest.raises(SystemExit):
        runpy.run_path(str(path), run_name="__main__")
    assert calls[0][0] == "evaluate-control"
    assert calls[0][-1 - len(given) :] == ["runs/e2e", *given]
    assert ("--task" in calls[0]) == (not given)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "anlg.jsonl"
    lines = [LINE, {**LINE, "obs1": "an unheard-of word"}, {**LINE, "hyps": LINE["hyps"][:1]}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def infilled(monkeypatch):
    """Put a model that knows few words in the place of the one that is trained."""

    def check(targets):
        if "unheard-of" in targets[0].keep:
            raise UserError("'unheard-of' is not in the vocabulary")

    def write(targets, num):
        for target in targets:
            filled = [target.keep.replace("___", text) for text in ("it is cheap .", "food")]
            yield [SimpleNamespace(text=text) for text in filled][:num]

    controller = SimpleNamespace(check=check, write=write)
    monkeypatch.setattr(Controller, "from_checkpoint", lambda *_, **__: controller)


def test_anlg_is_scored_against_all_its_references(data, infilled, tmp_path, capsys):
    output = tmp_path / "anlg"
    asked = ["run", "--data", str(data), "--output", str(output), "--num", "2"]
    assert ANLG(asked) == 0
    streams = capsys.readouterr()
    assert "left out: line 2: 'unheard-of'" in streams.err
    assert "2 of 3 lines can be infilled" in streams.err
    written, references = (
        [json.loads(line) for line in (output / name).read_text().splitlines()]
        for name in ("written.jsonl", "references.jsonl")
    )
    assert [row["candidates"] for row in written] == [["it is cheap .", "food"]] * 2
    assert references == [{"id": 0, "trg": LINE["hyps"]}, {"id": 2, "trg": LINE["hyps"][:1]}]
    # The second reference of the first line is met.
    row = next(line for line in streams.out.splitlines() if "exact_match" in line)
    assert "0.5000" in row
    assert ANLG(asked) == 2
    assert "is not overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "no such file"),
        ("{", [], "anlg.jsonl, line 1: invalid JSON"),
        ('{"obs1": "a", "hyps": ["b"]}', [], "line 1: no column 'obs2'"),
        ('{"obs1": "a", "obs2": "c"}', [], 'line 1: "hyps" must be a list'),
        ('{"obs1": "a", "obs2": "c", "hyps": [" "]}', [], 'line 1: "hyps" must be a list'),
        (json.dumps({**LINE, "obs1": "unheard-of"}), [], "no line can be infilled"),
        (json.dumps(LINE), ["--num", "1"], "give 2 or more"),
        (json.dumps(LINE), ["--holes", "3", "2"], "--holes 3 2: give at least 1"),
        (json.dumps(LINE), ["--output", "nowhere/anlg"], "nowhere/anlg does not exist"),
    ],
)
def test_bad_input_of_anlg(data, infilled, content, options, message, tmp_path, capsys):
    data.unlink()
    if content is not None:
        data.write_text(content)
    asked = ["run", "--data", str(data), "--output", str(tmp_path / "anlg"), *options]
    assert ANLG(asked) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "anlg").exists()


def test_a_checkpoint_that_is_not_there(data, tmp_path, capsys):
    nowhere = str(tmp_path / "nowhere")
    assert ANLG([nowhere, "--data", str(data), "--output", str(tmp_path / "anlg")]) == 2
    streams = capsys.readouterr()
    assert streams.err.startswith(f"diffusion-jax: error: {nowhere}")
    assert streams.err.count("\n") == 1
