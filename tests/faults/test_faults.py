"""What goes wrong on a long run, done to real training processes (docs/faults.md has the table)."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time

import pytest

from diffusion_jax.workdir import Workdir
from tests.faults.kills import kill_often
from tests.faults.trainer import metrics

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("DIFFUSION_JAX_KILLS", "4"))


def steps(workdir):
    return Workdir(workdir).checkpoints().steps()


def contents(directory):
    return {p: p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def resume(place, run, tmp_path, *more, **options):
    """Go on with a run; return exit code and what was said."""
    log = tmp_path / "log"
    return place.trainers.run(run, *place.options, "--resume", *more, log=log, **options)


def damage(checkpoint, how):
    """Damage the largest file of a checkpoint."""
    file = max((f for f in checkpoint.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 1 << 3
    else:
        del data[len(data) // 2 :]
    file.write_bytes(data)


def test_killed_at_random_moments_a_run_loses_nothing(place, tmp_path):
    outcome = kill_often(place.trainers, tmp_path, KILLS, seed=1)
    assert outcome.lost == 0
    assert outcome.passed_over == 0
    assert outcome.identical


def test_sigterm_saves_and_the_run_goes_on_bit_for_bit(place, tmp_path):
    assert "stopped by SIGTERM at step 13 of 20; the state is saved" in place.stopped_log
    assert steps(place.stopped) == [5, 10, 13]
    run = place.copy_to(tmp_path / "run")
    code, said = resume(place, run, tmp_path)
    assert code == 0, said
    assert "going on from step 13" in said
    assert metrics(run) == place.whole


@pytest.mark.parametrize("how", ["truncate", "flip"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(place, tmp_path, how):
    run = place.copy_to(tmp_path / "run")
    damage(run / "checkpoints" / "13", how)
    code, said = resume(place, run, tmp_path)
    assert code == 0, said
    assert "checkpoints/13 cannot be used and is passed over" in said
    assert "going on from step 10" in said
    assert metrics(run) == place.whole
    assert (run / "checkpoints" / "damaged-13").is_dir()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_again(place, tmp_path):
    run = place.copy_to(tmp_path / "run")
    for step in ("5", "10", "13"):
        damage(run / "checkpoints" / step, "truncate")
    before = contents(run)
    code, said = resume(place, run, tmp_path)
    assert code == 2
    assert "no checkpoint can be read" in said
    assert contents(run).items() >= before.items()


def test_a_loss_that_is_no_number_stops_the_run_at_the_last_good_checkpoint(place, tmp_path):
    run = place.copy_to(tmp_path / "run")
    code, said = resume(place, run, tmp_path, faults={15: "nan"})
    assert code == 1
    assert "not finite at step 15" in said
    assert "last good checkpoint is" in said
    assert steps(run) == [5, 10, 13]
    code, said = resume(place, run, tmp_path)
    assert code == 0, said
    assert metrics(run) == place.whole


@pytest.mark.parametrize("fault", ["bytes", "line"])
def test_a_broken_data_file_is_noticed_before_anything_is_learned(place, tmp_path, fault):
    corpus = place.options[-1]
    broken, run = tmp_path / "corpus.txt", tmp_path / "run"
    shutil.copy(corpus, broken)
    options = (*place.options[:-1], broken)
    code, said = place.trainers.run(run, *options, log=tmp_path / "log", faults={7: "SIGTERM"})
    assert code == 0, said
    lines = broken.read_bytes().splitlines(keepends=True)
    if fault == "bytes":
        lines[30] = b"the \xff\xfe fox .\n"
    else:
        lines[30], lines[31] = lines[31], lines[30]
    broken.write_bytes(b"".join(lines))
    before = contents(run)
    code, said = place.trainers.run(run, *options, "--resume", log=tmp_path / "log")
    assert code == 2, said
    assert ("UTF-8" if fault == "bytes" else "training data is not what it was") in said
    assert contents(run) == before


def test_another_configuration_under_a_run_is_refused(place, tmp_path):
    run = place.copy_to(tmp_path / "run")
    before = contents(run)
    code, said = resume(place, run, tmp_path, "--optim.learning-rate", "0.5")
    assert code == 2
    assert "begun with another configuration (optim.learning_rate: 0.01 -> 0.5)" in said
    assert contents(run) == before


def test_two_trainers_on_one_directory(place, tmp_path):
    run = place.copy_to(tmp_path / "run")
    log = tmp_path / "first.log"
    first = place.trainers.start(
        run, *place.options, "--resume", log=log, faults=dict.fromkeys(range(14, 20), "sleep")
    )
    deadline = time.monotonic() + 120
    while not (run / "lock").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGSTOP)
    code, said = resume(place, run, tmp_path)
    assert code == 2
    assert f"is being trained by process {first.pid} on " in said
    first.kill()
    first.join()
    assert (run / "lock").exists()
    code, said = resume(place, run, tmp_path)
    assert code == 0, said
    assert metrics(run) == place.whole
    assert not (run / "lock").exists()


@contextlib.contextmanager
def mounted(path, *options):
    """Mount a small file system in memory, where that is allowed."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def limit_file_size():
    """Let every write beyond 16 KiB of a file fail, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))


def test_a_file_that_cannot_grow_ends_the_run_and_spoils_nothing(place, tmp_path):
    run = place.copy_to(tmp_path / "run")
    before = contents(run / "checkpoints")
    code, said = resume(place, run, tmp_path, limit=limit_file_size)
    assert code, said  # What is said may be cut short: the limit holds for the log as well.
    assert contents(run / "checkpoints").items() >= before.items()
    assert steps(run) == [5, 10, 13]
    code, said = resume(place, run, tmp_path)
    assert code == 0, said
    assert metrics(run) == place.whole


def test_a_full_disk_ends_the_run_and_spoils_nothing(place, tmp_path):
    with mounted(tmp_path / "disk", "-o", "size=2m") as disk:
        run = place.copy_to(disk / "run")
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
        (disk / "filler").write_bytes(b"x" * max(0, free - 40_000))
        before = contents(run / "checkpoints")
        code, said = resume(place, run, tmp_path)
        assert code == 1, said
        assert "a checkpoint could not be saved" in said
        assert "Traceback" not in said
        assert contents(run / "checkpoints").items() >= before.items()
        (disk / "filler").unlink()
        code, said = resume(place, run, tmp_path)
        assert code == 0, said
        assert metrics(run) == place.whole


def test_a_directory_that_may_not_be_written_to(place, tmp_path):
    with mounted(tmp_path / "disk", "-o", "size=4m") as disk:
        run = place.copy_to(disk / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        code, said = resume(place, run, tmp_path)
        assert code == 2, said
        assert f"cannot write to {run}: Read-only file system" in said
        new = place.trainers.run(disk / "new", *place.options, log=tmp_path / "log")
        assert new[0] == 2
        assert f"cannot write to {disk / 'new'}: Read-only file system" in new[1]
