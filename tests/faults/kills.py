"""Kill a training run at random moments, over and over, and see what is left.

``python -m tests.faults.kills --kills 50 --seed 0``. Every second kill comes during the start of
the process, the others while it trains and saves (every third step). After each kill no checkpoint
may be missing; after the last one the run goes on to its end, and every line of its metrics must be
that of a run that nobody killed, bit for bit.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.scale.checkpoint import CheckpointStore
from tests.faults.trainer import PLAIN, Trainers, metrics, write_corpus

# More than a fast machine makes between two kills: a run must not end before its last one.
STEPS_PER_KILL = 100
SAVE_EVERY = 3


class Outcome(NamedTuple):
    """What the kills met.

    Attributes:
        kills: processes killed.
        before_first: of these, before the first checkpoint.
        in_start: before the first step of their process.
        in_save: while a checkpoint was being written.
        lost: checkpoints that had been there before and were gone, or older than before.
        passed_over: checkpoints that could not be read.
        first_step: steps made when the last process was killed.
        identical: whether all metrics equal those of the run that nobody killed.
    """

    kills: int
    before_first: int
    in_start: int
    in_save: int
    lost: int
    passed_over: int
    first_step: int
    identical: bool


def kill_often(trainers, directory, kills, seed):
    """Run everything in a directory and return the outcome."""
    draw = random.Random(seed)
    steps = STEPS_PER_KILL * kills
    corpus = write_corpus(directory / "corpus.txt")
    options = (*PLAIN, "--data.corpus", corpus, "--train.steps", steps)
    rare = ("--train.checkpoint-every", steps)
    code, log = trainers.run(directory / "whole", *options, *rare, log=directory / "whole.log")
    assert code == 0, log
    run = directory / "killed"
    counts = dict.fromkeys(("before_first", "in_start", "in_save", "lost", "passed_over"), 0)
    newest, start_seconds = 0, 5.0
    for index in range(kills):
        log = directory / "killed.log"
        often = ("--train.checkpoint-every", SAVE_EVERY, "--resume")
        log.unlink(missing_ok=True)
        old = _leftovers(run)
        began = time.monotonic()
        process = trainers.start(run, *options, *often, log=log)
        if index % 2:
            time.sleep(draw.uniform(0, 1.2 * start_seconds))
        else:
            while not _is_at_work(log) and process.is_alive():
                time.sleep(0.02)
            start_seconds = time.monotonic() - began
            time.sleep(draw.uniform(0, 2.5))
        assert process.is_alive(), f"ended by itself: {_read(log)}"
        process.kill()
        process.join()
        saved = CheckpointStore(run).steps()
        counts["before_first"] += not saved
        counts["in_start"] += not _is_at_work(log)
        counts["in_save"] += bool(_leftovers(run) - old)
        counts["lost"] += (saved[-1] if saved else 0) < newest
        counts["passed_over"] += "passed over" in _read(log)
        newest = saved[-1] if saved else 0
        print(f"kill {index + 1}: newest checkpoint {newest}, {counts}", file=sys.stderr)
    code, said = trainers.run(run, *options, *rare, "--resume", log=directory / "last.log")
    assert code == 0, said
    assert not newest or f"going on from step {newest}" in said
    counts["passed_over"] += "passed over" in said
    identical = metrics(run) == metrics(directory / "whole")
    return Outcome(kills=kills, first_step=newest, identical=identical, **counts)


def _leftovers(run):
    """Return what saves that were cut short left behind, each by a name that no other has."""
    folder = run / "checkpoints"
    found = [entry for entry in folder.iterdir() if "tmp" in entry.name] if folder.exists() else []
    return {(entry.name, entry.stat().st_ino, entry.stat().st_ctime_ns) for entry in found}


def _is_at_work(log):
    return "\nstep " in _read(log)


def _read(path):
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def main():
    """Print the outcome as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        trainers = Trainers(Path(name) / "compiled")
        outcome = kill_often(trainers, Path(name), given.kills, given.seed)
    print(json.dumps(outcome._asdict()))


if __name__ == "__main__":
    main()
