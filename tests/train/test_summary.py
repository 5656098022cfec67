"""Where the time of a run goes, and what is said about it."""

import time

import jax
import pytest

from diffusion_jax.train.events import Every
from diffusion_jax.train.loop import fit
from diffusion_jax.train.stopwatch import PARTS, Stopwatch
from diffusion_jax.train.summary import run_summary, show_summary
from tests.train.toy import B, L, batch_at, setup

SECONDS = {
    **dict.fromkeys(PARTS, 0.0),
    "compile": 50.0,
    "input": 1.0,
    "compute": 7.0,
    "metrics": 1.5,
    "checkpoint": 30.0,
    "other": 0.5,
    "total": 90.0,
}


def test_parts_and_the_rest_make_the_whole():
    watch = Stopwatch()
    with watch.measure("metrics"):
        time.sleep(0.02)
    watch.add("input", 0.0)
    seconds = watch.seconds()
    assert seconds["metrics"] >= 0.02
    assert seconds["total"] == pytest.approx(sum(seconds[part] for part in (*PARTS, "other")))


def test_a_run_says_what_each_part_took():
    run = setup()
    result = fit(
        run.state,
        run.step,
        lambda step: time.sleep(0.03 * (step == 2)) or batch_at(step),
        root_key=jax.random.key(0),
        total_steps=5,
        place=run.place,
        hooks=[lambda event: time.sleep(0.02)],
        state_hooks=[Every(5, lambda event: time.sleep(0.05))],
    )
    spent = result.spent
    assert result.steps == 5
    assert result.tokens == 5 * B * L
    assert spent["metrics"] >= 5 * 0.02
    assert spent["hooks"] >= 0.05
    assert spent["compile"] > spent["compute"] / 5
    assert spent["checkpoint"] < 0.02
    assert all(seconds >= 0 for seconds in spent.values())
    assert spent["total"] == pytest.approx(sum(spent[part] for part in (*PARTS, "other")))


def test_speed_is_over_the_time_of_training_alone():
    summary = run_summary(SECONDS, steps=5, tokens=1000, flops=2e9, peak_flops_per_second=4e8)
    assert summary["tokens_per_second"] == pytest.approx(100.0)
    assert summary["flops_per_second"] == pytest.approx(2e8)
    assert summary["utilisation"] == pytest.approx(0.5)
    assert run_summary(SECONDS, steps=5, tokens=1000, flops=2e9)["utilisation"] is None


def test_the_summary_is_shown_in_words():
    lines = []
    show_summary(run_summary(SECONDS, steps=5, tokens=1000), lines.append)
    assert lines[0].startswith("5 steps in 90.0 s: compile 50.0 s (55.6%), waiting for data 1.0 s")
    assert lines[1] == "100 tokens/s"
    summary = run_summary(SECONDS, steps=5, tokens=1000, flops=2e9, peak_flops_per_second=4e8)
    show_summary(summary, lines.append)
    assert lines[3].startswith(
        "100 tokens/s, 0.2 GFLOP/s in matrix products, 50.0% of what was measured"
    )
