"""Plans: topologies read, programs compiled for absent devices, estimates and advice."""

import importlib.util
import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.cli import main
from diffusion_jax.config import SampleConfig
from diffusion_jax.errors import UserError
from diffusion_jax.plan import compiled as compiled_module
from diffusion_jax.plan import report
from diffusion_jax.plan.chips import CHIPS, parse_topology
from diffusion_jax.plan.compiled import (
    Compiled,
    compile_sampler,
    compile_training,
    largest_batch,
    plan_mesh,
)
from diffusion_jax.plan.estimate import advice, roofline
from diffusion_jax.plan.report import candidates, lines, make_plan, search
from diffusion_jax.program import Program
from diffusion_jax.scale.mesh import place_batch
from diffusion_jax.scale.sharding import create_state, jit_train_step
from diffusion_jax.training_run import place_learner
from tests.integration import small

MESH = {"data": 8, "fsdp": 1, "tensor": 1}
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='libtpu is missing (extra "tpu")'
)


def config():
    asked = small.config()
    return replace(asked, model=replace(asked.model, vocab_size=64))


def test_topologies():
    assert parse_topology("v5e:4x4").num_chips == 16
    assert parse_topology(" V5P:8x8x8 ").sizes == (8, 8, 8)
    assert parse_topology("gpu:8").kind == "h100"
    assert parse_topology("a100:4").chip is CHIPS["a100"]
    assert all(chip.source for chip in CHIPS.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v9:4x4", "unknown chip 'v9'; there are v4:4x4x4"),
        ("v5e", "not KIND:SIZES"),
        ("v5e:4x4x4", "takes 2 sizes"),
        ("v5p:0x4x4", "at least 1"),
    ],
)
def test_unknown_topologies(text, message):
    with pytest.raises(UserError, match=message):
        parse_topology(text)


def compiled(**changes):
    base = Compiled(True, 4e9, 6e9, 10e9, 394e12, 819e9, [], 100e9, True, "")
    return base._replace(**changes)


def test_the_roofline():
    line = roofline(compiled(), CHIPS["v5e"], 2)
    assert (line.compute, line.memory, line.links) == pytest.approx((1.0, 1.0, 0.5))
    assert (line.overlapped, line.serial) == pytest.approx((1.0, 2.5))
    assert roofline(compiled(sent_bytes=800e9), CHIPS["v5e"], 2).bound_by == "links"


def test_advice():
    options = {"remat": "dots", "fsdp": 1, "num_chips": 16}
    assert advice(compiled(), 16e9, **options) == ""
    assert "--model.remat full" in advice(compiled(peak_bytes=20e9), 16e9, **options)
    assert "--mesh.fsdp 4" in advice(
        compiled(argument_bytes=15e9, peak_bytes=20e9), 16e9, **options
    )
    refused = compiled(fits=False, argument_bytes=None, peak_bytes=None)
    assert "--mesh.fsdp 4" in advice(refused, 16e9, **options)
    # What is advised divides the chips.
    assert "--mesh.fsdp 3 " in advice(refused, 16e9, **{**options, "num_chips": 6})
    assert "--mesh.fsdp 7 " in advice(refused, 16e9, **{**options, "num_chips": 7})
    assert "--mesh.fsdp" not in advice(refused, 16e9, **{**options, "fsdp": 16})


def test_a_plan_fits_only_with_its_sampler(monkeypatch):
    monkeypatch.setattr(report, "compile_training", lambda *_: compiled(peak_bytes=10e9))
    monkeypatch.setattr(report, "plan_mesh", lambda *_: SimpleNamespace(shape=MESH))
    chains = {"small": compiled(peak_bytes=10e9), "large": compiled(peak_bytes=90e9)}
    topology = parse_topology("h100:8")
    for name, chain in chains.items():
        monkeypatch.setattr(report, "compile_sampler", lambda *_, chain=chain: chain)
        plan = make_plan(config(), topology, batches=False)
        assert plan["fits"] == (name == "small")
        assert (lines(plan)[-2] == "fits") == (name == "small")
    assert "the sampler does not" in lines(plan)[-2]
    assert make_plan(config(), topology, batches=False, sampler=False)["fits"]


def test_a_search_says_what_is_wrong_with_the_chips(monkeypatch):
    def missing(topology):
        raise UserError("install libtpu")

    monkeypatch.setattr(report, "topology_devices", missing)
    with pytest.raises(UserError, match="install libtpu"):
        search(config(), parse_topology("v5e:4x4"))
    monkeypatch.setattr(report, "topology_devices", lambda topology: None)

    def refuse(*arguments):
        raise UserError("batch of 7")

    monkeypatch.setattr(report, "plan_mesh", refuse)
    with pytest.raises(UserError, match="the first that was tried: batch of 7"):
        search(config(), parse_topology("v5e:4x4"))


def test_the_best_of_a_search_is_planned_whole(monkeypatch):
    asked = []

    def make_plan(candidate, topology, **options):
        asked.append(options)
        line = {"serial": 1.0 if candidate.mesh.fsdp == 4 else 2.0}
        return {"fits": True, "training": {"roofline": line}, "fsdp": candidate.mesh.fsdp}

    monkeypatch.setattr(report, "make_plan", make_plan)
    monkeypatch.setattr(report, "topology_devices", lambda topology: None)
    plans = search(config(), parse_topology("gpu:8"), sampler=True)
    assert asked[-1] == {"sampler": True, "batches": False}
    assert plans[0]["fsdp"] == 4


def test_a_batch_is_halved_until_one_compiles(monkeypatch):
    def step(config, mesh):
        fits = config.train.batch_size <= 40
        return compiled(fits=fits, peak_bytes=1e9 if fits else None)

    monkeypatch.setattr(compiled_module, "compile_training", step)
    asked = replace(config(), train=replace(config().train, batch_size=256))
    mesh = SimpleNamespace(shape=MESH)
    first = step(asked, mesh)
    assert largest_batch(asked, mesh, 16e9, first) == 32


def test_parameters_are_read_in_every_step_of_a_chain():
    mesh = plan_mesh(config(), parse_topology("gpu:8"))
    state = Program.build(config()).abstract_state()
    params = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    few, many = (
        compile_sampler(replace(config(), sample=SampleConfig(steps=n)), mesh, 8) for n in (4, 5)
    )
    assert many.memory_traffic - few.memory_traffic == pytest.approx(params, rel=0.1)


def test_a_search_tries_every_mesh_that_multiplies_to_the_chips():
    found = list(candidates(config(), 8))
    shapes = {(c.mesh.data, c.mesh.fsdp, c.mesh.tensor) for c in found}
    assert all(a * b * c == 8 for a, b, c in shapes if a > 0)
    assert shapes == {(-1, 1, 1), (8, 1, 1), (4, 2, 1), (2, 4, 1), (1, 8, 1)} | {
        (4, 1, 2),
        (2, 2, 2),
        (1, 4, 2),
    }
    assert found[0] == config()
    assert {c.model.remat for c in found} == {"none", "dots", "full"}
    assert len(found) == len(set(map(str, found)))
    # Two heads are not cut in four.
    assert max(tensor for _, _, tensor in shapes) == 2


@pytest.mark.slow
def test_the_plan_agrees_with_a_run_on_this_machine(tmp_path):
    """Predicted bytes against those of the arrays that a run holds, and of its own compilation."""
    asked = config()
    mesh = plan_mesh(asked, parse_topology("gpu:8"))
    predicted = compile_training(asked, mesh)
    placed = place_learner(Program.build(asked, mesh).learner(), mesh)
    state = create_state(placed.learner.make_state, jax.random.key(0), placed.shardings)
    shape = (asked.train.batch_size, asked.data.length)
    batch = place_batch(
        mesh, {"input_ids": jnp.zeros(shape, jnp.int32), "noise_mask": jnp.ones(shape, bool)}
    )
    held = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves((state, batch))
        for shard in leaf.addressable_shards[:1]
    )
    assert predicted.argument_bytes == pytest.approx(held, rel=0.01)
    step = jit_train_step(placed.learner.train_step, mesh, placed.shardings)
    ran = step.lower(state, batch, jax.random.key(0)).compile().memory_analysis()
    assert predicted.temporary_bytes == ran.temp_size_in_bytes


@pytest.mark.slow
@needs_libtpu
def test_a_tpu_that_is_not_here(tmp_path, capsys):
    out = str(tmp_path / "plan.jsonl")
    arguments = ["--experiment", small.FILE, "--scale", "text", "--topology", "v5e:4x4"]
    options = ["--model.vocab-size", "64", "--no-largest-batch", "-o", out]
    assert main(["plan", *arguments, *options]) == 0
    assert "TPU v5e" in capsys.readouterr().out
    with open(out, encoding="utf-8") as stream:
        plan = json.loads(stream.read())
    assert plan["fits"]
    assert plan["training"]["collectives"]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is here")
def test_without_libtpu_it_says_how_to_get_it():
    with pytest.raises(UserError, match=r"diffusion-jax\[tpu\]"):
        plan_mesh(config(), parse_topology("v5e:4x4"))
