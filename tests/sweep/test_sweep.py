"""Sweeps: listing jobs, sharing them out, collecting, fitting."""

import json
from dataclasses import replace

import numpy as np
import pytest

from diffusion_jax.cli import main
from diffusion_jax.config import ExperimentConfig
from diffusion_jax.errors import UserError
from diffusion_jax.sweep import (
    Job,
    collect,
    fit_power_law,
    load_jobs,
    optimal_sizes,
    part_of,
    run,
)
from diffusion_jax.sweep.report import fit_records

X = np.geomspace(1e9, 1e12, 8)
HEAD = (
    "from diffusion_jax.config import ExperimentConfig as Config\n"
    "from diffusion_jax.sweep import Job\ndef jobs(scale):\n"
)
ISOFLOP = "experiments/scaling/isoflop.py"


def test_a_power_law_is_found():
    law = fit_power_law(X, 3.0 * X**-0.25, refits=50)
    assert law.exponent == pytest.approx(0.25)
    assert law.exponent_interval == pytest.approx((0.25, 0.25))
    assert law.scale == pytest.approx(3.0)


def test_the_floor_is_found():
    law = fit_power_law(X, 0.5 + 40.0 * X**-0.25, fit_floor=True, refits=20)
    assert law.floor == pytest.approx(0.5, rel=0.02)
    assert law.exponent == pytest.approx(0.25, rel=0.05)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random, hits = np.random.default_rng(0), 0
    x = np.geomspace(1, 1000, 20)
    for seed in range(60):
        y = x**-0.3 * np.exp(random.normal(0, 0.2, x.size))
        low, high = fit_power_law(x, y, refits=200, seed=seed).exponent_interval
        hits += low <= 0.3 <= high
    assert hits >= 48


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2], [2, 1], "at least 3"),
        ([1, 1, 1], [2, 1, 3], "at least 3"),
        ([1, 2, 3], [2, 1, 0], "positive"),
    ],
)
def test_what_cannot_be_fitted(x, y, message):
    with pytest.raises(UserError, match=message):
        fit_power_law(x, y)


def test_the_best_size_of_every_budget():
    sizes, budgets, losses = [], [], []
    for budget in (1e10, 1e11, 1e12):
        best = budget**0.5
        for factor in (0.1, 0.5, 3.0, 9.0):
            sizes.append(best * factor)
            budgets.append(budget)
            losses.append(2 * budget**-0.1 + 0.01 * np.log(factor) ** 2)
    optima = optimal_sizes(budgets, sizes, losses)
    assert [o.size for o in optima] == pytest.approx([1e5, 10**5.5, 1e6])
    assert all(o.inside for o in optima)
    records = [
        {"job": str(i), "c": c, "n": n, "y": y}
        for i, (c, n, y) in enumerate(zip(budgets, sizes, losses))
    ]
    report = fit_records(records, x="c", y="y", budget="c", size="n", refits=20)
    assert report["best_size"]["exponent"] == pytest.approx(0.5)
    # Only the best run of each budget says how y falls.
    assert report["law"]["exponent"] == pytest.approx(0.1, abs=0.02)


def test_jobs_have_names_of_their_own_and_can_be_shared_out():
    jobs = load_jobs(ISOFLOP, "small")
    assert len({job.name for job in jobs}) == len(jobs) == 12
    parts = [part_of(jobs, f"{i}/5") for i in range(1, 6)]
    assert sorted(job.name for part in parts for job in part) == sorted(job.name for job in jobs)
    for wrong in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(UserError, match="i/n"):
            part_of(jobs, wrong)


BUCKETS = (
    "    from diffusion_jax.config import DataConfig, ExperimentConfig\n"
    "    data = DataConfig(task='pair', length_bucket=8)\n"
    "    return [Job('a', ExperimentConfig(data=data))]\n"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "no function jobs"),
        ("jobs = []\n", "no function jobs"),
        ("def jobs(scale):\n    raise ValueError('choose full')\n", "choose full"),
        (HEAD + "    return [Job('a', Config())] * 2\n", "two jobs"),
        (HEAD + "    return []\n", "returns no job"),
        (HEAD + "    return ['a']\n", "lists 'a'; every entry must be a sweep.Job"),
        (HEAD + "    return [Job('a', None)]\n", "config=None"),
        (HEAD + "    return [Job('../a', Config())]\n", "job name"),
        (HEAD + BUCKETS, "arithmetic of full rows"),
    ],
)  # fmt: skip
def test_sweep_files_that_are_refused(tmp_path, text, message):
    file = tmp_path / "sweep.py"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_jobs(str(file))


def test_collect_and_fit_from_the_command_line(tmp_path, capsys):
    for i, x in enumerate(X):
        where = tmp_path / "runs" / f"job{i}"
        where.mkdir(parents=True)
        status = "finished" if i else "failed"
        record = {"job": f"job{i}", "status": status, "flops": x, "bound": 12 + x**-0.2, "h": 12.0}
        (where / "result.json").write_text(json.dumps(record))
    assert len(collect([tmp_path / "runs"])) == 8
    lines = str(tmp_path / "all.jsonl")
    assert main(["sweep", "collect", str(tmp_path / "runs"), "--output", lines]) == 0
    assert main(["sweep", "fit", lines, "--y", "bound - h", "--refits", "10"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["law"]["num_points"] == 7
    assert report["law"]["exponent"] == pytest.approx(0.2)
    assert main(["sweep", "fit", lines, "--y", "loss"]) == 2
    assert "no number 'loss'" in capsys.readouterr().err
    assert main(["sweep", "collect", str(tmp_path)]) == 2
    for option, message in (
        (["--refits", "0"], "refits=0"),
        (["--seed", "-1"], "seed=-1"),
        (["--budget", "nosuch"], "7 of 7 runs have no field 'nosuch'"),
    ):
        assert main(["sweep", "fit", lines, "--y", "bound - h", *option]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "latin.jsonl").write_bytes(b'{"job": "\xe9"}\n')
    assert main(["sweep", "fit", str(tmp_path / "latin.jsonl")]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_what_a_sweep_measures_with_is_looked_at_before_the_first_job(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "train", lambda *_, **__: pytest.fail("was trained"))
    config = ExperimentConfig()
    assert config.data.corpus.startswith("grammar:")
    with pytest.raises(UserError, match="bound_rows=1"):
        run.run_jobs([Job("a", config)], tmp_path, bound_rows=1)
    with pytest.raises(UserError, match="bound_timesteps=0"):
        run.run_jobs([Job("a", config)], tmp_path, bound_timesteps=0)
    blind = replace(config, data=replace(config.data, validation_size=0))
    with pytest.raises(UserError, match="'b' has no validation corpus"):
        run.run_jobs([Job("a", config), Job("b", blind)], tmp_path)
