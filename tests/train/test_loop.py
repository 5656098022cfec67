"""Runs that stop, die, go wrong and go on."""

import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.scale.checkpoint import CheckpointStore
from diffusion_jax.train.events import Every
from diffusion_jax.train.interrupt import stop_on_signal
from diffusion_jax.train.loop import NonFiniteLossError, fit
from tests.train.run_toy import TOTAL_STEPS, send_at, train
from tests.train.test_step import quiet_loss
from tests.train.toy import Terms, batch_at, setup

ROOT = pathlib.Path(__file__).parents[2]
CLOCKS = ("step_seconds", "data_wait_seconds", "tokens_per_second")


def lines(workdir):
    """Read the metrics of a run without what depends on the clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in row if name not in CLOCKS} for row in rows]


def assert_same_end(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(workdir).state


def test_there_is_one_line_per_step(whole_run):
    workdir, state = whole_run
    assert [row["step"] for row in lines(workdir)] == list(range(1, TOTAL_STEPS + 1))
    assert int(state.step) == TOTAL_STEPS
    assert CheckpointStore(workdir).steps()[-1] == TOTAL_STEPS


def test_a_run_stopped_by_a_signal_saves_and_goes_on_bit_for_bit(whole_run, tmp_path, caplog):
    result = train(tmp_path, extra_hooks=[send_at("SIGTERM", 7)])
    assert result.stopped_by == "SIGTERM"
    assert "the state is saved" in caplog.text
    # Step 8 was in flight when the signal came.
    assert CheckpointStore(tmp_path).steps()[-1] == result.step == 8
    resumed = train(tmp_path)
    assert resumed.stopped_by is None
    assert lines(tmp_path) == lines(whole_run[0])
    assert_same_end(resumed.state, whole_run[1])


def run_process(workdir, *arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "tests.train.run_toy", str(workdir), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
def test_a_killed_process_goes_on_bit_for_bit(whole_run, tmp_path):
    killed = run_process(tmp_path, "SIGKILL", "13")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert CheckpointStore(tmp_path).steps()[-1] in (5, 10)
    stopped = run_process(tmp_path, "SIGINT", "16")
    assert stopped.returncode == 0, stopped.stderr
    assert "ended at 17 by SIGINT" in stopped.stdout
    finished = run_process(tmp_path)
    assert "ended at 20 by None" in finished.stdout, finished.stderr
    assert lines(tmp_path) == lines(whole_run[0])
    state, _ = CheckpointStore(tmp_path).restore_latest(whole_run[1])
    assert_same_end(state, whole_run[1])


@pytest.fixture
def usual_interrupt():
    """Give SIGINT its usual effect: a process started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_interrupt")
def test_the_second_signal_has_its_usual_effect():
    def interrupt_twice():
        with stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signal_name == "SIGINT"
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_the_main_thread_signals_are_left_alone():
    seen = []

    def run():
        with stop_on_signal() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def poisoned(step):
    """Spoil the tenth update, which ends in a save: nothing of it may reach the disk."""
    batch = batch_at(step)
    if step == 9:
        batch["input_ids"][0, 0] = -1
    return batch


def fragile_loss(params, key, batch, t, dropout_key):
    terms = quiet_loss(params, key, batch, t, dropout_key)
    bad = jnp.any(batch["input_ids"] < 0, axis=1)
    return Terms(jnp.where(bad, jnp.nan, terms.mse), terms.prior)


def contents(directory):
    return {p: p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_place(tmp_path):
    run = setup(loss=fragile_loss)
    reported, on_disk = [], {}

    def watch(event):
        reported.append(event.step)
        if event.step == 9:
            store.wait()
            on_disk.update(contents(tmp_path))

    with (
        CheckpointStore(tmp_path) as store,
        pytest.raises(
            NonFiniteLossError, match=r"(?s)not finite at step 10 .*last good checkpoint is .*/5\."
        ),
    ):
        fit(
            run.state,
            run.step,
            poisoned,
            root_key=jax.random.key(0),
            total_steps=12,
            place=run.place,
            store=store,
            checkpoint_every=5,
            hooks=[watch],
        )
    assert reported == list(range(1, 10))
    assert contents(tmp_path) == on_disk
    assert CheckpointStore(tmp_path).steps() == [5]


def test_hooks_see_the_state_of_their_step_and_every_metric_once():
    run = setup(loss=quiet_loss)
    metric_steps, state_steps = [], []

    def look(event):
        state_steps.append((event.step, int(event.state.step)))

    result = fit(
        run.state,
        run.step,
        batch_at,
        root_key=jax.random.key(0),
        total_steps=7,
        place=run.place,
        hooks=[lambda event: metric_steps.append((event.step, event.metrics["finite"]))],
        state_hooks=[Every(3, look), Every(2, look)],
    )
    assert metric_steps == [(step, True) for step in range(1, 8)]
    assert state_steps == [(2, 2), (3, 3), (4, 4), (6, 6), (6, 6)]
    assert 0 <= result.waited_seconds <= result.seconds


def test_metrics_are_fetched_while_the_next_step_runs():
    """The report of step n comes after step n + 1 was dispatched."""
    run = setup(loss=quiet_loss)
    order = []

    def step(*arguments):
        order.append("dispatch")
        return run.step(*arguments)

    fit(
        run.state,
        step,
        batch_at,
        root_key=jax.random.key(0),
        total_steps=3,
        place=run.place,
        hooks=[lambda event: order.append(event.step)],
    )
    assert order == ["dispatch", "dispatch", 1, "dispatch", 2, 3]


def test_an_error_in_the_data_reaches_the_caller():
    run = setup(loss=quiet_loss)

    def broken(step):
        if step == 2:
            raise OSError("the disk is gone")
        return batch_at(step)

    with pytest.raises(OSError, match="disk is gone"):
        fit(
            run.state,
            run.step,
            broken,
            root_key=jax.random.key(0),
            total_steps=5,
            place=run.place,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_steps": -1}, "past total_steps"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"state_hooks": [Every(0, print)]}, "every 0 steps"),
    ],
)
def test_bad_options_are_named(options, message):
    run = setup()
    arguments = {"root_key": jax.random.key(0), "total_steps": 5, "place": run.place, **options}
    with pytest.raises(UserError, match=message):
        fit(run.state, run.step, batch_at, **arguments)


def test_a_finished_run_does_nothing(caplog):
    run = setup()
    with caplog.at_level(logging.WARNING):
        result = fit(
            run.state,
            run.step,
            batch_at,
            root_key=jax.random.key(0),
            total_steps=0,
            place=run.place,
        )
    assert result.step == 0
    assert not caplog.text
