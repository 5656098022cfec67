"""What people and files get to see of a run."""

import io
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from diffusion_jax.errors import UserError
from diffusion_jax.train.events import StateEvent, StepEvent
from diffusion_jax.train.hooks import Preview, Validate
from diffusion_jax.train.metrics import JsonLines, TensorBoard, WriteMetrics, readable_metrics
from diffusion_jax.train.progress import ProgressReport
from diffusion_jax.train.state import TrainState

METRICS = {
    "total": 2.0,
    "mse": 1.5,
    "total_q0_sum": 3.0,
    "total_q0_count": 2,
    "total_q1_sum": 0.0,
    "total_q1_count": 0,
    "total_q2_sum": 5.0,
    "total_q2_count": 1,
    "total_q3_sum": 0.0,
    "total_q3_count": 0,
    "grad_norm": 0.7,
    "finite": True,
}


def event(step, total=4, seconds=0.5):
    return StepEvent(step, total, METRICS, seconds, 0.01, tokens=100)


def state_event(step):
    return StateEvent(step, 4, TrainState(jnp.asarray(step), {}, {}, (), ()))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_quarters_become_means_and_empty_ones_are_left_out():
    values = readable_metrics(METRICS)
    assert values == {"total": 2.0, "mse": 1.5, "grad_norm": 0.7, "total_q0": 1.5, "total_q2": 5.0}


def test_lines_after_the_restored_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with JsonLines(path) as lines:
        for step in range(1, 8):
            lines.write(step, {"total": float(step)})
    with path.open("a") as file:
        file.write('{"step": 8, "tot')
    with JsonLines(path, resume_step=5) as lines:
        lines.write(6, {"total": 60.0})
    rows = read(path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["total"] == 60.0


def test_a_new_run_starts_an_empty_file(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    for _ in range(2):
        with JsonLines(path) as lines:
            lines.write(1, {"a": 1})
    assert read(path) == [{"step": 1, "a": 1}]


def test_numbers_that_json_lacks_become_null(tmp_path):
    with JsonLines(tmp_path / "m.jsonl") as lines:
        lines.write(1, {"a": float("nan"), "b": float("inf"), "c": 1.0})
    assert read(tmp_path / "m.jsonl") == [{"step": 1, "a": None, "b": None, "c": 1.0}]


def test_every_so_many_steps_and_the_last(tmp_path):
    with JsonLines(tmp_path / "m.jsonl") as lines:
        hook = WriteMetrics(lines, every=2)
        for step in range(1, 6):
            hook(event(step, total=5))
    rows = read(tmp_path / "m.jsonl")
    assert [row["step"] for row in rows] == [2, 4, 5]
    assert rows[0]["tokens_per_second"] == 200.0
    with pytest.raises(UserError, match="log_every is 0"):
        WriteMetrics(every=0)


def test_tensorboard_writes_events(tmp_path):
    pytest.importorskip("tensorboardX")
    board = TensorBoard(tmp_path)
    board.write(1, {"total": 2.0})
    board.close()
    (file,) = tmp_path.glob("*tfevents*")
    assert b"total" in file.read_bytes()


def test_tensorboard_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"diffusion-jax\[tensorboard\]"):
        TensorBoard(tmp_path)


def test_without_a_terminal_there_are_plain_lines_now_and_then():
    stream = io.StringIO()
    with ProgressReport(console=Console(file=stream), seconds_between_lines=1000.0) as report:
        for step in range(1, 5):
            report(event(step))
    first, last = stream.getvalue().splitlines()
    assert first.startswith("step 1/4 total 2 mse 1.5 grad_norm 0.7 | 200 tokens/s")
    assert last.startswith("step 4/4")
    assert last.endswith("0:00:00 left")


def test_on_a_terminal_there_is_a_bar_with_everything():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160)
    with ProgressReport(console=console) as report:
        for step in range(1, 4):
            report(event(step))
        report.print("a [sample] text")
    shown = stream.getvalue()
    for part in ("3/4", "total 2", "200 tokens/s", "a [sample] text"):
        assert part in shown


def test_the_compiling_step_does_not_count_for_the_speed():
    stream = io.StringIO()
    with ProgressReport(console=Console(file=stream), seconds_between_lines=0.0) as report:
        report(event(1, seconds=100.0))
        report(event(2, seconds=0.5))
    assert "200 tokens/s, 0:00:01 left" in stream.getvalue()


def test_validation_is_written_and_said(tmp_path):
    said = []
    with JsonLines(tmp_path / "v.jsonl") as lines:
        hook = Validate(lambda state: {"total": float(state.step)}, lines, say=said.append)
        hook(state_event(3))
    assert read(tmp_path / "v.jsonl") == [{"step": 3, "validation/total": 3.0}]
    assert said == ["step 3: validation/total 3"]


def test_preview_shows_each_text(capsys):
    Preview(lambda state: ["one", f"two at {int(state.step)}"])(state_event(2))
    assert capsys.readouterr().out.splitlines() == ["step 2, samples:", "  one", "  two at 2"]


def test_numbers_survive_json_bit_for_bit(tmp_path):
    value = float(np.float32(0.1) * np.float32(3))
    with JsonLines(tmp_path / "m.jsonl") as lines:
        lines.write(1, {"a": value})
    assert read(tmp_path / "m.jsonl")[0]["a"] == value
