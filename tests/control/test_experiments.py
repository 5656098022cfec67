"""The scripts that go from a checkpoint to a table: what they hand on, and what they refuse."""

import runpy
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


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
