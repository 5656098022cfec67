"""What was saved comes back bit for bit, or somebody is told."""

import json
import logging
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.scale.checkpoint import CheckpointStore, open_checkpoint, restore_params
from diffusion_jax.scale.checksum import tree_checksum
from diffusion_jax.scale.sharding import abstract_with_shardings
from diffusion_jax.train.optimizer import make_optimizer
from diffusion_jax.train.state import init_state
from tests.train.toy import batch_at, init_params, setup

# After a read that failed, Orbax drops coroutines which then complain.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]

OPTIMIZER = make_optimizer(1e-3, 100)
TEMPORARY = "5.orbax-checkpoint-tmp"


def make_state(step, seed=0, ema_rates=(0.9, 0.99)):
    params = init_params(seed)
    state = init_state(params, OPTIMIZER, ema_rates=ema_rates, timestep_state=jnp.ones((5, 2)))
    return state.replace(step=jnp.asarray(step, jnp.int32))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope="module")
def two_saves(tmp_path_factory):
    """Build a run with checkpoints of steps 10 and 20; copied by the tests that damage it."""
    workdir = tmp_path_factory.mktemp("run")
    with CheckpointStore(workdir) as store:
        for step in (10, 20):
            store.save(step, make_state(step, seed=step), {"note": f"at {step}"})
    return workdir


@pytest.fixture
def run_dir(two_saves, tmp_path):
    return pathlib.Path(shutil.copytree(two_saves, tmp_path / "run"))


def test_a_state_comes_back_bit_for_bit(two_saves):
    store = CheckpointStore(two_saves)
    state, step = store.restore_latest(jax.eval_shape(lambda: make_state(0)))
    assert step == 20
    assert_equal(state, make_state(20, seed=20))
    assert store.metadata() == {"note": "at 20"}
    assert store.metadata(10) == {"note": "at 10"}


@pytest.mark.parametrize("which", ["params", "ema 0.9"])
def test_parameters_alone_need_no_template(two_saves, which):
    for path in (two_saves, two_saves / "checkpoints", two_saves / "checkpoints" / "20"):
        params, step = restore_params(path, which)
        assert step == 20
        assert_equal(params, init_params(20))
    params, step = restore_params(two_saves / "checkpoints" / "10", which)
    assert step == 10
    assert_equal(params, init_params(10))


def test_the_newest_and_every_tenth_are_kept(tmp_path):
    with CheckpointStore(tmp_path, keep_last=2, keep_every=10) as store:
        for step in (5, 10, 15, 20, 25):
            store.save(step, make_state(step))
    assert store.steps() == [10, 20, 25]


def test_a_state_moves_between_meshes(tmp_path):
    a, b = setup(fsdp=4), setup(data=2, tensor=2)
    with CheckpointStore(tmp_path) as store:
        store.save(1, a.state)
        store.wait()
        state, _ = store.restore_latest(abstract_with_shardings(b.state, b.shardings))
    assert_equal(state, a.state)
    assert jax.tree.leaves(state)[1].sharding.mesh == b.mesh


def test_a_save_in_the_background_does_not_see_later_steps(tmp_path):
    run = setup()
    state = run.state
    with CheckpointStore(tmp_path) as store:
        for index in range(3):
            state, _ = run.step(state, run.place(batch_at(index)), jax.random.key(0))
            expected = jax.tree.map(np.array, jax.device_get(state))
            store.save(index + 1, state)
        for index in range(3, 8):
            state, _ = run.step(state, run.place(batch_at(index)), jax.random.key(0))
        store.wait()
        restored, step = store.restore_latest(state)
    assert step == 3
    assert_equal(restored, expected)


def damages(path):
    """Yield every file of a checkpoint with what can happen to it."""
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.stat().st_size:
            for kind in ("flip", "truncate", "delete"):
                yield file, kind


def damage(file, kind):
    data = bytearray(file.read_bytes())
    if kind == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif kind == "truncate":
        file.write_bytes(data[: len(data) // 2])
    else:
        file.unlink()


def test_no_damage_to_any_file_goes_unnoticed(two_saves, tmp_path, caplog):
    """Either everything still comes back right, or the checkpoint before is used and it is said."""
    template = jax.eval_shape(lambda: make_state(0))
    fell_back = 0
    cases = list(damages(two_saves / "checkpoints" / "20"))
    for index, (file, kind) in enumerate(cases):
        workdir = pathlib.Path(shutil.copytree(two_saves, tmp_path / str(index)))
        damage(workdir / file.relative_to(two_saves), kind)
        caplog.clear()
        state, step = CheckpointStore(workdir).restore_latest(template)
        assert_equal(state, make_state(step, seed=step))
        assert (step == 10) == ("passed over" in caplog.text), (file, kind)
        fell_back += step == 10
        shutil.rmtree(workdir)
    assert fell_back >= 10


def arrays_file(step_dir):
    return max((f for f in step_dir.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


@pytest.mark.parametrize("position", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_flipped_bit_among_the_numbers_is_found(run_dir, position):
    file = arrays_file(run_dir / "checkpoints" / "20")
    data = bytearray(file.read_bytes())
    data[int(position * len(data))] ^= 1 << 6
    file.write_bytes(data)
    state, step = CheckpointStore(run_dir).restore_latest(make_state(0))
    assert_equal(state, make_state(step, seed=step))
    params, step = restore_params(run_dir, "ema 0.99")
    assert_equal(params, init_params(step))


def test_training_goes_on_over_a_damaged_checkpoint(run_dir):
    damage(arrays_file(run_dir / "checkpoints" / "20"), "truncate")
    with CheckpointStore(run_dir, keep_last=2) as store:
        _, step = store.restore_latest(make_state(0))
        assert step == 10
        store.save(20, make_state(20, seed=99))
        store.wait()
        state, step = store.restore_latest(make_state(0))
    assert step == 20
    assert_equal(state, make_state(20, seed=99))
    assert store.steps() == [10, 20]
    assert (run_dir / "checkpoints" / "damaged-20").exists()


def test_all_damaged_names_each(run_dir):
    for step in ("10", "20"):
        damage(arrays_file(run_dir / "checkpoints" / step), "truncate")
    with pytest.raises(UserError, match=r"(?s)checkpoints/20: .*checkpoints/10: "):
        CheckpointStore(run_dir).restore_latest(make_state(0))


def test_what_a_killed_save_left_behind_is_reported_and_removed_by_the_next(run_dir, caplog):
    leftover = run_dir / "checkpoints" / TEMPORARY
    shutil.copytree(run_dir / "checkpoints" / "20", leftover)
    (leftover / "_CHECKPOINT_METADATA").unlink()
    with CheckpointStore(run_dir) as store:
        with caplog.at_level(logging.WARNING):
            assert store.restore_latest(make_state(0)).step == 20
        assert TEMPORARY in caplog.text
        assert leftover.exists()
        store.save(30, make_state(30))
    assert not leftover.exists()
    assert store.steps() == [10, 20, 30]


def test_another_configuration_is_told_apart_from_damage(two_saves):
    store = CheckpointStore(two_saves)
    wider = make_state(0)
    wider = wider.replace(params={**wider.params, "inner": jnp.zeros((8, 64))})
    with pytest.raises(UserError, match=r"inner.*float32\[8, 32\].*float32\[8, 64\]"):
        store.restore_latest(wider)
    with pytest.raises(UserError, match=r"no 'ema 0.5'"):
        store.restore_latest(make_state(0, ema_rates=(0.5,)))
    with pytest.raises(UserError, match=r"no 'ema 0.5'; choose one of .*'ema 0.9'"):
        store.restore_params("ema 0.5")
    with pytest.raises(UserError, match=r"no checkpoint of step 15 .*\[10, 20\]"):
        store.restore_params("params", step=15)


def test_a_changed_record_is_damage(run_dir):
    file = run_dir / "checkpoints" / "20" / "_CHECKPOINT_METADATA"
    record = json.loads(file.read_text())
    assert "at 20" in json.dumps(record)
    file.write_text(json.dumps(record).replace("at 20", "at 21"))
    with pytest.raises(UserError, match="JSON record"):
        CheckpointStore(run_dir).metadata(20)
    assert CheckpointStore(run_dir).metadata() == {"note": "at 10"}


def test_paths_that_are_no_checkpoints(tmp_path):
    (tmp_path / "empty" / "checkpoints" / "7").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("x")
    for path, message in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path / "other", "not a checkpoint"),
        (tmp_path / "file", "not a checkpoint"),
        (tmp_path / "empty", "7: "),
    ):
        with pytest.raises(UserError, match=message):
            restore_params(path)
    with pytest.raises(UserError, match="holds no checkpoint"):
        CheckpointStore(tmp_path / "other").restore_latest(make_state(0))


def test_opening_for_reading_changes_nothing(two_saves):
    before = sorted(two_saves.rglob("*"))
    store, step = open_checkpoint(two_saves)
    assert step is None
    store.restore_latest(make_state(0))
    store.close()
    assert sorted(two_saves.rglob("*")) == before


@pytest.mark.parametrize("options", [{"keep_last": 0}, {"keep_every": 0}])
def test_bad_options(tmp_path, options):
    with pytest.raises(UserError, match="keep_"):
        CheckpointStore(tmp_path, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool", "uint8"])
def test_any_changed_bit_changes_the_checksum(dtype):
    x = np.asarray(jnp.arange(24).reshape(4, 6).astype(dtype))
    tree = {"a": x, "b": jnp.ones(3)}
    base = int(tree_checksum(tree))
    assert int(tree_checksum(jax.tree.map(jnp.copy, tree))) == base
    for index in ((0, 0), (1, 2), (3, 5)):
        for bit in range(1 if dtype == "bool" else 8):
            changed = x.copy()
            changed.view(np.uint8)[index] ^= 1 << bit
            assert int(tree_checksum({**tree, "a": changed})) != base
    assert int(tree_checksum({**tree, "a": x[::-1]})) != base
