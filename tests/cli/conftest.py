"""Run directories that no training has to be paid for."""

import shutil

import pytest

from tests.integration.small import write_untrained


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
