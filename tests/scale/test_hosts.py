"""How processes find each other, keep each other out, and what they say when that fails."""

import json
import os
import signal
import socket
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from diffusion_jax.errors import RunError, UserError
from diffusion_jax.scale import agreement, hosts, lock
from diffusion_jax.scale.mesh import batch_block, make_mesh, place_batch, spread_rows
from diffusion_jax.workdir import Workdir

FULL = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


def test_options_come_before_the_environment():
    assert hosts.rendezvous(environment=FULL) == hosts.Rendezvous("a:1", 4, 3)
    assert hosts.rendezvous("b:2", 2, 0, environment=FULL) == hosts.Rendezvous("b:2", 2, 0)
    assert hosts.rendezvous(environment={}) == hosts.Rendezvous()


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        (("a:1", 2, None), {}, r"--process-id is missing: .*JAX_PROCESS_ID"),
        ((None, 2, 0), {}, "--coordinator is missing"),
        (("a:1", 2, 2), {}, "process_id is 2, but with 2 processes it must be from 0 to 1"),
        (("a:1", 0, 0), {}, "num_processes is 0"),
        (("a", 2, 0), {}, "give HOST:PORT"),
        (("a:99999", 2, 0), {}, "give HOST:PORT"),
        ((None, None, None), {**FULL, "JAX_PROCESS_ID": "x"}, "JAX_PROCESS_ID is 'x'"),
    ],
)
def test_what_does_not_fit_together_is_named(given, environment, message):
    with pytest.raises(UserError, match=message):
        hosts.rendezvous(*given, environment=environment)


def test_a_coordinator_out_of_reach_is_named():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(UserError, match=f"{address} cannot be reached within 1 s"):
        hosts.join(hosts.Rendezvous(address, 2, 1, seconds=1))


def test_a_host_with_chips_is_recognised(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "_TPU_DEVICE_FILES", (str(tmp_path),))
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: name)
    assert hosts.is_tpu_host({})
    assert hosts.is_tpu_host({"JAX_PLATFORMS": "tpu,cpu"})
    assert not hosts.is_tpu_host({"JAX_PLATFORMS": "cpu"})
    monkeypatch.setattr(hosts, "_TPU_DEVICE_FILES", (str(tmp_path / "absent"),))
    assert not hosts.is_tpu_host({})


LAST_WORDS = """
import os, signal
from diffusion_jax.scale.hosts import LastWords
words = LastWords()
words.change("one")
words.change("two 'quoted' \\n $HOME")
if {killed}:
    os.kill(os.getpid(), signal.SIGKILL)
words.close()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_last_words_are_said_by_those_who_cannot_speak(killed):
    code = LAST_WORDS.format(killed=killed)
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == (-signal.SIGKILL if killed else 0)
    expected = "diffusion-jax: error: two 'quoted' $HOME\n" if killed else ""
    assert ended.stderr == expected


def test_the_words_of_the_runtime_about_a_lost_process_are_explained():
    lost = ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer")
    said = hosts._explain(lost, "runs/a")
    assert isinstance(said, RunError)
    assert "lost contact" in str(said)
    assert "--resume" in str(said)
    for other in (ValueError("shapes differ"), UserError("Gloo"), KeyboardInterrupt()):
        assert hosts._explain(other, "runs/a") is other


def test_a_second_holder_is_refused_by_the_name_of_the_first(tmp_path):
    run = Workdir(tmp_path / "new" / "run")
    with run.lock():
        held = json.loads((run.path / lock.FILE).read_text())
        assert held["pid"] == os.getpid()
        with pytest.raises(UserError, match=f"trained by process {os.getpid()} on "), run.lock():
            pass
        assert (run.path / lock.FILE).exists()
    assert not (run.path / lock.FILE).exists()
    run.check_unused()
    with run.lock():
        pass


def test_what_a_killed_holder_left_behind_holds_nobody_up(tmp_path):
    (tmp_path / lock.FILE).write_text('{"pid": 1}')
    with Workdir(tmp_path).lock():
        assert json.loads((tmp_path / lock.FILE).read_text())["pid"] == os.getpid()


def test_who_waited_for_a_file_that_is_gone_takes_the_new_one(tmp_path, monkeypatch):
    """The holder unlinks its file between our opening and our locking it."""
    real, calls = lock._lock, []

    def late(descriptor, file):
        real(descriptor, file)
        if not calls:
            file.unlink()
        calls.append(file)

    monkeypatch.setattr(lock, "_lock", late)
    with Workdir(tmp_path).lock():
        assert (tmp_path / lock.FILE).exists()
    assert len(calls) == 2


def test_alone_nothing_is_asked():
    assert agreement.exchange("a") == ["a"]
    agreement.check_same("a", lambda *_: "different")
    assert agreement.Ballot().ask(15) == 15
    with pytest.raises(UserError, match="mine") as caught, agreement.together():
        raise UserError("mine")
    assert not caught.value.on_all_processes


def fake_mesh(data, fsdp, tensor, per_process):
    """A mesh over processes that are not there."""
    devices = [
        types.SimpleNamespace(process_index=i // per_process) for i in range(data * fsdp * tensor)
    ]
    grid = np.asarray(devices).reshape(data, fsdp, tensor)
    return types.SimpleNamespace(
        shape={"data": data, "fsdp": fsdp, "tensor": tensor},
        devices=grid,
        local_devices=devices[:per_process],
    )


@pytest.mark.parametrize(
    ("sizes", "per_process", "blocks"),
    [
        ((4, 1, 1), 1, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((2, 2, 1), 2, [(0, 2), (1, 2)]),
        ((2, 2, 2), 4, [(0, 2), (1, 2)]),
        ((2, 1, 4), 2, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ((1, 1, 4), 2, [(0, 1), (0, 1)]),
    ],
)
def test_each_process_feeds_the_rows_of_its_devices(sizes, per_process, blocks, monkeypatch):
    mesh = fake_mesh(*sizes, per_process)
    for process, block in enumerate(blocks):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert batch_block(mesh) == block


def test_a_tensor_axis_that_cuts_across_processes_is_named():
    with pytest.raises(UserError, match="tensor=3 cuts across processes that have 2 devices each"):
        batch_block(fake_mesh(2, 1, 3, 2))


def test_rows_are_placed_as_part_of_the_global_batch():
    mesh = make_mesh(data=2, tensor=4)
    rows = {"x": np.arange(12).reshape(4, 3)}
    placed = place_batch(mesh, rows)["x"]
    np.testing.assert_array_equal(placed, rows["x"])
    assert placed.sharding.shard_shape(placed.shape) == (2, 3)
    keys = jax.random.split(jax.random.key(0), 4)
    spread = spread_rows(mesh, (keys, rows["x"]))
    np.testing.assert_array_equal(jax.random.key_data(spread[0]), jax.random.key_data(keys))


def test_last_words_can_be_lost_without_harm():
    words = hosts.LastWords()
    words._shell.kill()
    words._shell.wait()
    words.change("x" * 100_000)
    words.change("nobody hears this")
    words.close()
