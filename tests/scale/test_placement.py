"""Activations stay on the devices that hold their rows, however parameters are cut."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from diffusion_jax.program import Program
from diffusion_jax.scale.collectives import collectives
from diffusion_jax.scale.mesh import batch_sharding, make_mesh
from diffusion_jax.scale.sharding import param_shardings, rows_over
from tests.integration import small


@pytest.mark.parametrize("sizes", [{"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 4}], ids=str)
def test_parameters_are_gathered_and_activations_are_not_reduced(sizes):
    mesh = make_mesh(**sizes)
    config = small.config()
    program = Program.build(
        dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=64)), mesh
    )
    params = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        program.abstract_state().params,
        param_shardings(mesh, program.abstract_state().params, program.model.logical_axes()),
    )
    rows = batch_sharding(mesh)
    x = jax.ShapeDtypeStruct((16, 6, 8), jnp.float32, sharding=rows)
    time = jax.ShapeDtypeStruct((16,), jnp.float32, sharding=rows)
    compiled = jax.jit(program.model.denoise).lower(params, x, time).compile()
    assert isinstance(compiled.output_shardings, NamedSharding)
    assert compiled.output_shardings.is_equivalent_to(rows, 3)
    inside = [c for c in collectives(compiled.as_text()) if "/layers/" in c.op_name]
    assert inside
    assert all(item.kind == "all-gather" for item in inside)


def test_one_device_is_left_alone():
    assert rows_over(make_mesh(devices=jax.devices()[:1])) is None
