"""Traces cover the steps that were asked for, and viewers can read them."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.train.events import StepEvent
from diffusion_jax.train.profiling import Profile


def report(hook, steps):
    for step in steps:
        hook(StepEvent(step, 20, {}, 0.1, 0.0, 64))


@pytest.fixture
def calls(monkeypatch):
    made = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: made.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: made.append("stop"))
    return made


@pytest.mark.parametrize("first_step", [1, 8])
def test_the_first_steps_of_a_process_are_left_out(calls, first_step):
    with Profile("unused", steps=3, first_step=first_step) as profile:
        report(profile, range(first_step, first_step + 1))
        assert calls == []
        report(profile, range(first_step + 1, first_step + 5))
        assert calls == ["start"]
        report(profile, [first_step + 5])
        assert calls == ["start", "stop"]
    assert calls == ["start", "stop"]


def test_a_run_that_ends_early_leaves_its_trace(calls):
    with Profile("unused", steps=30, first_step=1) as profile:
        report(profile, range(1, 5))
    assert calls == ["start", "stop"]


def test_nothing_is_recorded_unless_asked(calls):
    with Profile("unused", steps=0, first_step=1) as profile:
        report(profile, range(1, 20))
    assert calls == []


def test_the_trace_is_one_that_viewers_read(tmp_path):
    with Profile(tmp_path, steps=1, first_step=1, skip=0) as profile:
        report(profile, [0])
        with jax.profiler.TraceAnnotation("a named span"):
            jnp.ones(3).block_until_ready()
        report(profile, [1, 2])
    (trace,) = tmp_path.glob("plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert any(event.get("name") == "a named span" for event in events)
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
