"""What the devices hold and say to each other in one training step, as it was compiled.

``collectives.json`` holds the counts per mesh, for the compiler of one version of jax. After a
change that is meant, write it anew: ``python -m tests.scale.test_communication``.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.config import DataConfig, ExperimentConfig, TrainConfig
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.program import Program
from diffusion_jax.scale.collectives import collectives, summary
from diffusion_jax.scale.mesh import make_mesh
from diffusion_jax.scale.sharding import jit_train_step
from diffusion_jax.training_run import place_learner

GOLDEN = Path(__file__).with_name("collectives.json")
MESHES = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (1, 1, 8)}
B, L = 16, 16
CONFIG = ExperimentConfig(
    model=DenoiserConfig(
        vocab_size=512,
        embed_dim=16,
        hidden_dim=32,
        num_layers=2,
        num_heads=8,
        mlp_dim=64,
        max_length=L,
        time_dim=16,
    ),
    data=DataConfig(length=L),
    train=TrainConfig(batch_size=B, ema_rates=(0.9,)),
)


@functools.cache
def compiled(name):
    mesh = make_mesh(*MESHES[name])
    placed = place_learner(Program.build(CONFIG).learner(), mesh)
    batch = {
        "input_ids": jax.ShapeDtypeStruct((B, L), jnp.int32),
        "noise_mask": jax.ShapeDtypeStruct((B, L), jnp.bool_),
    }
    step = jit_train_step(placed.learner.train_step, mesh, placed.shardings)
    return placed, step.lower(placed.abstract, batch, jax.random.key(0)).compile()


def said(name):
    placed, program = compiled(name)
    return summary(collectives(program.as_text()), placed.mesh.shape)


def nbytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
def test_copies_of_the_model_add_up_their_gradients_and_say_no_more():
    placed, _ = compiled("data")
    (row,) = said("data")
    assert (row["kind"], row["over"]) == ("all-reduce", "data")
    # Every gradient once, those of the embedding by its three uses (the latent, the normaliser and
    # the target of the rounding loss), and a few numbers for metrics.
    params = placed.abstract.params
    least = nbytes(params)
    assert least <= row["payload_bytes"] <= least + 2 * nbytes(params["embedding"]) + 4096


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_collectives_are_those_on_record(name):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    if jax.__version__ != golden["jax"]:
        pytest.skip(f"the record is of jax {golden['jax']}: other compilers combine otherwise")
    assert said(name) == golden["meshes"][name]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pieces"), [("data", 1), ("fsdp", 8)])
def test_each_device_holds_its_piece_of_the_state_and_updates_it_in_place(name, pieces):
    placed, program = compiled(name)
    plan = program.memory_analysis()
    whole = nbytes(placed.abstract)
    # What does not divide is a few biases; what is not state is the batch and a key.
    assert whole / pieces <= plan.alias_size_in_bytes <= 1.05 * whole / pieces
    assert plan.argument_size_in_bytes - plan.alias_size_in_bytes <= 2 * B * L * 8


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    record = {"jax": jax.__version__, "meshes": {name: said(name) for name in MESHES}}
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
