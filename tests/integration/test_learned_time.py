"""A run whose chains depend on what was learned reads that from its checkpoint."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from diffusion_jax.convert.safetensors import export_run
from diffusion_jax.errors import UserError
from diffusion_jax.generate import Generator
from diffusion_jax.program import Program
from diffusion_jax.workdir import Workdir
from tests.integration.small import config, write_untrained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    asked = config("text")
    asked = replace(asked, diffusion=replace(asked.diffusion, timestep_sampler="time_warp"))
    return write_untrained(tmp_path_factory.mktemp("warped") / "run", "text", asked)


def test_the_timestep_state_comes_with_the_parameters(run):
    workdir = Workdir(run)
    read = workdir.read_config()
    params, state = workdir.read_sampled(read, Program.build(read).timestep_sampler)
    np.testing.assert_array_equal(params["embedding"], workdir.read_params(read)["embedding"])
    assert state.losses.shape == state.weights.shape == (20,)
    # What write_untrained draws, not what a fresh sampler would start from.
    assert np.asarray(state.losses).any()


def test_generators_step_through_the_learned_time(run, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "diffusion_jax.program.Program.chain_schedule",
        lambda program, params, state: seen.update(state=state) or program.schedule,
    )
    Generator.from_checkpoint(run)
    read = Workdir(run).read_config()
    _, state = Workdir(run).read_sampled(read, Program.build(read).timestep_sampler)
    np.testing.assert_array_equal(seen["state"].losses, state.losses)


def test_a_checkpoint_without_that_state_is_refused(run):
    workdir = Workdir(run)
    store = workdir.checkpoints()
    with pytest.raises(UserError, match="timestep_state"):
        store.restore_part("timestep_state", jax.ShapeDtypeStruct((3,), np.float32), step=1)


def test_safetensors_cannot_hold_it(run, tmp_path):
    with pytest.raises(UserError, match="time_warp"):
        export_run(run, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
