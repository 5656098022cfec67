"""Run directories that no training has to be paid for, and commands that must be refused."""

import shutil
from pathlib import Path

import pytest

from diffusion_jax import generate, training_run
from diffusion_jax.cli import main
from tests.integration.small import FILE, write_untrained


@pytest.fixture(scope="package")
def untrained(tmp_path_factory):
    """Return the paths of two runs, by scale; not to be changed."""
    root = tmp_path_factory.mktemp("untrained")
    return {scale: write_untrained(root / scale, scale) for scale in ("text", "pair")}


@pytest.fixture
def run_copy(untrained, tmp_path):
    """Return a function that copies a run, so that it can be damaged."""

    def copy(scale="text"):
        return shutil.copytree(untrained[scale], tmp_path / f"run-{scale}")

    return copy


@pytest.fixture(autouse=True)
def nothing_compiles(monkeypatch):
    """Make every way to a compiled program fail the test."""

    def refuse(*arguments, **options):
        raise AssertionError("something was compiled for bad input")

    for module, name in [
        (training_run, "create_state"),
        (training_run, "jit_train_step"),
        (generate.Generator, "_run"),
    ]:
        monkeypatch.setattr(module, name, refuse)


def contents(directory):
    return {p: p.read_bytes() for p in sorted(Path(directory).rglob("*")) if p.is_file()}


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command that must be refused; return its line on standard error."""

    def run(*arguments):
        before = contents(tmp_path)
        assert main([str(a) for a in arguments]) == 2
        streams = capsys.readouterr()
        assert contents(tmp_path) == before, "the disk was changed"
        assert streams.out == ""
        assert streams.err.startswith("diffusion-jax: error: ")
        assert streams.err.count("\n") == 1, "more than one line"
        return streams.err

    return run


@pytest.fixture
def train_refused(refused, tmp_path):
    def run(*arguments):
        return refused("train", FILE, "--scale", "text", "-w", tmp_path / "w", *arguments)

    return run
