"""The commands for TPU slices: what is printed, and that a dry run runs nothing."""

import runpy
import subprocess
from pathlib import Path

import pytest

from diffusion_jax.sweep import load_jobs

POD = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "tpu" / "pod.py"))
ZONE = ["pod", "--zone", "us-west4-a"]


def printed(capsys, *words):
    assert POD["main"]([*words]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.fixture(autouse=True)
def _no_commands(monkeypatch):
    def run(command, **options):
        raise AssertionError(f"a dry run ran {command}")

    monkeypatch.setattr(subprocess, "run", run)


def test_each_action(capsys):
    (line,) = printed(capsys, "create", *ZONE, "--type", "v5litepod-16", "--spot", "--dry-run")
    assert line.startswith("+ gcloud compute tpus queued-resources create pod --node-id=pod")
    assert "--runtime-version=v2-alpha-tpuv5-lite" in line
    assert line.endswith("--spot")
    copy, install = printed(capsys, "install", *ZONE, "--dry-run")
    assert "scp" in copy
    assert "--worker=all" in install
    assert "requirements-tpu.txt" in install
    (line,) = printed(capsys, "mount", *ZONE, "10.0.0.2:/files", "--dry-run")
    assert "--worker=all" in line
    assert "mount -t nfs 10.0.0.2:/files /mnt/shared" in line
    (line,) = printed(
        capsys, "launch", *ZONE, "--dry-run", "--", "diffusion-jax", "train", "a b.py"
    )
    assert "--worker=all" in line
    assert "a b.py" in line
    assert "nohup" in line
    assert len(printed(capsys, "collect", *ZONE, "runs/a", "runs/b", "--dry-run")) == 2
    (line,) = printed(capsys, "delete", *ZONE, "--dry-run")
    assert "queued-resources delete pod" in line


def test_without_a_dry_run_commands_are_run_until_one_fails(monkeypatch, capsys):
    ran = []

    def run(command, **options):
        ran.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    assert POD["main"](["install", *ZONE]) == 3
    assert len(ran) == 1
    assert capsys.readouterr().out.startswith("+ gcloud")


def test_what_is_refused():
    with pytest.raises(SystemExit, match="unknown generation"):
        POD["main"](["create", *ZONE, "--type", "v9-8", "--dry-run"])
    with pytest.raises(SystemExit, match="nothing to launch"):
        POD["main"](["launch", *ZONE, "--dry-run"])


@pytest.mark.parametrize("axis", ["width", "depth", "batch", "data", "steps"])
def test_every_axis_is_a_sweep(axis):
    jobs = load_jobs("experiments/scaling/one_axis.py", axis)
    assert len({job.labels[axis] for job in jobs}) == len(jobs) >= 4
