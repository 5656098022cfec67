"""The real network, with all that it has, gives the same on every mesh."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from diffusion_jax.config import MeshConfig
from diffusion_jax.generate import Generator
from diffusion_jax.program import Program
from diffusion_jax.scale.mesh import make_mesh, place_batch
from diffusion_jax.scale.sharding import create_state, jit_train_step
from diffusion_jax.training_run import place_learner
from tests.integration import small

ROWS = 32
STEPS = 3


def config():
    """Return a network with scanned layers, heads, remat, dropout, own estimates, accumulation."""
    asked = small.config()
    return replace(
        asked,
        model=replace(
            asked.model,
            vocab_size=64,
            num_layers=2,
            num_heads=2,
            remat="dots",
            dropout=0.1,
            self_conditioning=True,
            relative_positions="local",
        ),
        diffusion=replace(asked.diffusion, self_cond_rate=0.5),
        train=replace(asked.train, batch_size=ROWS, microbatches=2),
    )


def trained(mesh_config, num_devices):
    """Return losses and parameters after a few steps on a mesh."""
    asked = replace(config(), mesh=mesh_config)
    mesh = make_mesh(
        mesh_config.data,
        mesh_config.fsdp,
        mesh_config.tensor,
        devices=jax.devices()[:num_devices],
    )
    placed = place_learner(Program.build(asked, mesh).learner(), mesh)
    state = create_state(placed.learner.make_state, jax.random.key(0), placed.shardings)
    step = jit_train_step(placed.learner.train_step, mesh, placed.shardings)
    random = np.random.default_rng(0)
    losses = []
    for _ in range(STEPS):
        ids = random.integers(0, 64, (ROWS, asked.data.length)).astype(np.int32)
        batch = place_batch(mesh, {"input_ids": ids, "noise_mask": np.ones(ids.shape, bool)})
        state, metrics = step(state, batch, jax.random.key(1))
        losses.append(float(metrics["total"]))
    return losses, jax.tree.map(np.asarray, state.params)


@pytest.fixture(scope="module")
def alone():
    return trained(MeshConfig(), 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "fsdp", "tensor"),
    [(8, 1, 1), (1, 8, 1), (1, 1, 2), (4, 1, 2), (2, 2, 2), (1, 4, 2), (2, 1, 1), (1, 4, 1)],
)
def test_training_is_that_of_one_device(alone, data, fsdp, tensor):
    losses, params = trained(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), data * fsdp * tensor)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    theirs = dict(jax.tree_util.tree_leaves_with_path(alone[1]))
    for path, ours in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        # Softmax does not see a bias of the keys: its gradient is rounding, which Adam makes large.
        if "qkv" not in name or "bias" not in name:
            np.testing.assert_allclose(ours, theirs[path], atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_samples_are_those_of_one_device(tmp_path):
    path = small.write_untrained(tmp_path / "run", "text")
    spread, single = [], []
    writer = Generator.from_checkpoint(path)

    def on_all(*arguments):
        written = writer.reverse(*arguments)
        spread.append((len(arguments[1].sharding.device_set), np.asarray(written)))
        # The same rows and parameters, all on one device.
        device = jax.devices()[0]
        moved = [jax.device_put(jax.tree.map(np.asarray, x), device) for x in arguments[2:]]
        params = jax.device_put(jax.tree.map(np.asarray, arguments[0]), device)
        keys = jax.device_put(jax.random.key_data(arguments[1]), device)
        single.append(np.asarray(writer.reverse(params, jax.random.wrap_key_data(keys), *moved)))
        return written

    replace(writer, reverse=on_all).sample(16, batch_size=16)
    assert spread[0][0] == 8
    np.testing.assert_array_equal(spread[0][1], single[0])
    assert len(np.unique(single[0], axis=0)) > 4
