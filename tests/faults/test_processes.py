"""Several real processes on one run: they meet, agree, stop together, and lose each other."""

import os
import signal
import socket
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from diffusion_jax.workdir import Workdir
from tests.faults.trainer import metrics

pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_all(place, run, count, tmp_path, *more, own=None, faults=None, limit=None):
    """Start the processes of a run; ``own``, ``faults`` and ``limit`` by process."""
    address = f"127.0.0.1:{free_port()}"
    for index in range(count):
        yield place.trainers.start(
            run,
            *place.options,
            *("--coordinator", address, "--num-processes", count, "--process-id", index),
            *more,
            *(own or {}).get(index, ()),
            log=tmp_path / f"{index}.log",
            faults=(faults or {}).get(index),
            limit=limit[index] if limit else None,
        )


def run_all(place, run, count, tmp_path, *more, **options):
    """Run all to their end; return exit codes and what was said, by process."""
    processes = list(start_all(place, run, count, tmp_path, *more, **options))
    for process in processes:
        process.join(900)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes, [(tmp_path / f"{index}.log").read_text() for index in range(count)]


def assert_same_losses(run, whole):
    """The losses of every step equal those of one process to 1e-6."""
    found = metrics(run)
    assert [row["step"] for row in found] == [row["step"] for row in whole]
    for row, expected in zip(found, whole):
        np.testing.assert_allclose(row["total"], expected["total"], rtol=1e-6, err_msg=str(row))


def test_two_then_four_then_one_train_as_one_process_does(place, tmp_path):
    run = tmp_path / "run"
    # SIGTERM to one process stops both at the same step.
    codes, said = run_all(place, run, 2, tmp_path, faults={1: {6: "SIGTERM"}})
    assert codes == [0, 0], said
    assert all("stopped by SIGTERM at step 8 of 20; the state is saved" in text for text in said)
    assert "step 1/20" in said[0]
    assert "step 1/20" not in said[1]
    assert "training on" not in said[1]
    # kill -9 to one of four: the others end and say so.
    processes = list(start_all(place, run, 4, tmp_path, "--resume", faults={2: {12: "SIGKILL"}}))
    processes[2].join(240)
    lost = time.monotonic()
    for process in processes:
        process.join(120)
    assert time.monotonic() - lost < 60
    said = [(tmp_path / f"{index}.log").read_text() for index in range(4)]
    assert processes[2].exitcode == -signal.SIGKILL, said
    for index in (0, 1, 3):
        assert processes[index].exitcode not in (0, None)
        assert "diffusion-jax: error: process" in said[index]
        assert f"--resume: the run goes on from the newest checkpoint in {run}" in said[index]
    assert "going on from step 8" in said[0]
    # One process goes on alone, to a stop; two end the run.
    assert Workdir(run).checkpoints().steps()[-1] in (8, 10)
    alone = (*place.options, "--resume")
    code, text = place.trainers.run(run, *alone, log=tmp_path / "log", faults={14: "SIGTERM"})
    assert code == 0, text
    codes, said = run_all(place, run, 2, tmp_path, "--resume", "--train.preview-every", "20")
    assert codes == [0, 0], said
    assert "going on from step 15" in said[0]
    assert "step 20, samples:" in said[0]
    assert_same_losses(run, place.whole)


def test_processes_with_different_configurations_are_told_apart(place, tmp_path):
    run = tmp_path / "run"
    codes, said = run_all(place, run, 2, tmp_path, own={1: ("--train.seed", "7")})
    assert codes == [2, 2], said
    for text in said:
        assert "train.seed is 0 on process 0 and 7 on process 1" in text
    assert not run.exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [("empty", "corpus.txt: no such file"), ("other", "read different data")],
)
def test_what_one_process_lacks_ends_all(place, tmp_path, file, message):
    """The same options everywhere; what lies behind a relative path differs."""
    run = tmp_path / "run"
    for index, name in enumerate(("same", file)):
        (tmp_path / str(index)).mkdir()
        if name != "empty":
            lines = Path(place.options[-1]).read_text().splitlines(keepends=True)
            lines = lines if name == "same" else lines[1:] + lines[:1]
            (tmp_path / str(index) / "corpus.txt").write_text("".join(lines))
    codes, said = run_all(
        place,
        run,
        2,
        tmp_path,
        *("--data.corpus", "corpus.txt"),
        limit=[partial(os.chdir, tmp_path / str(index)) for index in range(2)],
    )
    assert codes == [2, 2], said
    assert all(message in text for text in said), said
    assert not run.exists()


def test_a_coordinator_out_of_reach_is_named(place, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    many = ("--coordinator", address, "--num-processes", 2, "--join-seconds", 2)
    code, said = place.trainers.run(
        tmp_path / "run", *place.options, *many, "--process-id", 1, log=tmp_path / "log"
    )
    assert code == 2
    assert f"the coordinator at {address} cannot be reached within 2 s" in said
    code, said = place.trainers.run(
        tmp_path / "run", *place.options, *many, "--process-id", 0, log=tmp_path / "log"
    )
    assert code not in (0, None)
    deadline = time.monotonic() + 10
    while "came together" not in said and time.monotonic() < deadline:
        time.sleep(0.1)  # A process of its own says it, once the trainer has been aborted.
        said = (tmp_path / "log").read_text()
    assert f"not all processes of 2 came together at {address} within 2 s" in said
    assert not os.path.exists(tmp_path / "run")
