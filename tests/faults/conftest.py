"""What the tests of faults share: a server of trainers, a corpus, a run that nothing disturbed."""

import shutil
from typing import NamedTuple

import pytest

from tests.faults.trainer import PLAIN, Trainers, metrics, write_corpus


class Place(NamedTuple):
    """A directory with all that a fault needs.

    Attributes:
        trainers: starts them.
        options: of every run.
        whole: metrics of the run that nothing disturbed.
        stopped: directory of a run that SIGTERM ended after step 12; to be copied.
        stopped_log: what it said.
    """

    trainers: Trainers
    options: tuple
    whole: list
    stopped: object
    stopped_log: str

    def copy_to(self, path):
        """Copy the stopped run."""
        return shutil.copytree(self.stopped, path)


@pytest.fixture(scope="package")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    trainers = Trainers(root / "compiled")
    corpus = write_corpus(root / "corpus.txt")
    saving = ("--train.checkpoint-every", "5", "--train.keep-checkpoints", "4")
    options = (*PLAIN, *saving, "--data.corpus", corpus)
    code, log = trainers.run(root / "whole", *options, log=root / "whole.log")
    assert code == 0, log
    code, log = trainers.run(
        root / "stopped", *options, log=root / "stopped.log", faults={12: "SIGTERM"}
    )
    assert code == 0, log
    return Place(trainers, options, metrics(root / "whole"), root / "stopped", log)
