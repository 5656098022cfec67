"""Compile the real training step and the real sampler for devices that need not be here."""

import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusion_jax.chain import make_reverse
from diffusion_jax.config import ExperimentConfig
from diffusion_jax.errors import UserError
from diffusion_jax.plan.chips import Topology
from diffusion_jax.program import Program
from diffusion_jax.scale.collectives import collectives, summary
from diffusion_jax.scale.flops import traced_flops
from diffusion_jax.scale.hlo import Module, parse_hlo
from diffusion_jax.scale.mesh import batch_sharding, check_batch_size, make_mesh
from diffusion_jax.scale.sharding import abstract_with_shardings, jit_train_step
from diffusion_jax.training_run import place_learner

_NO_MEMORY = "RESOURCE_EXHAUSTED"


class Compiled(NamedTuple):
    """What the compiler says of one program, per device where not said otherwise.

    Attributes:
        fits: False where the compiler refused for want of memory; all else is then unknown (None).
        argument_bytes: inputs: for a training step the state and the batch.
        temporary_bytes: beside inputs and outputs.
        peak_bytes: inputs, temporaries, outputs that reuse no input, and the program.
        flops: matrix products of all devices together, recomputed ones included.
        memory_traffic: lower bound of the bytes read and written: every argument and output once,
            every temporary written and read once.
        collectives: see ``scale.collectives.summary``.
        sent_bytes: bytes that a device sends in one run.
        certain: False where a loop's length is unknown.
        message: what the compiler said where it refused.
    """

    fits: bool
    argument_bytes: int | None
    temporary_bytes: int | None
    peak_bytes: int | None
    flops: int
    memory_traffic: int | None
    collectives: list[dict[str, Any]]
    sent_bytes: int | None
    certain: bool
    message: str


def topology_devices(topology: Topology) -> Sequence[Any]:
    """Return devices to compile for: a TPU's by name, or as many CPU devices as there are GPUs.

    Raises:
        UserError: libtpu is missing, or knows no such topology, or there are too few CPU devices.
    """
    if topology.chip.platform == "gpu":
        devices = jax.devices("cpu")
        if len(devices) < topology.num_chips:
            raise UserError(
                f"{topology.name} stands for {topology.num_chips} devices, but jax has "
                f"{len(devices)} CPU devices; start with JAX_NUM_CPU_DEVICES={topology.num_chips}"
            )
        return devices[: topology.num_chips]
    # Without it libtpu asks the machine's metadata server, which exists in the cloud only.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "planning for TPUs needs their compiler, libtpu (no TPU is needed); install it with "
            'pip install "diffusion-jax[tpu]", or plan for gpu:N'
        )
    from jax.experimental import topologies

    sizes = "x".join(map(str, topology.sizes))
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{topology.kind}:{sizes}"
        )
    except Exception as error:
        if "lockfile" in str(error):
            raise UserError(
                "another process on this machine uses the TPU compiler; plan again when it is done"
            ) from error
        raise UserError(
            f"libtpu knows no topology {topology.name}: {str(error).splitlines()[0][:200]}; "
            f"try one of {topology.kind}:2x2{'x1' if len(topology.sizes) == 3 else ''}, "
            f"{topology.kind}:{'x'.join(['4'] * len(topology.sizes))}, or a full pod"
        ) from error
    return described.devices


def plan_mesh(config: ExperimentConfig, topology: Topology) -> Mesh:
    """Lay the topology's devices out as the configuration says; raises UserError."""
    mesh = make_mesh(
        config.mesh.data,
        config.mesh.fsdp,
        config.mesh.tensor,
        devices=topology_devices(topology),
    )
    check_batch_size(mesh, config.train.batch_size, config.train.microbatches)
    return mesh


def compile_training(config: ExperimentConfig, mesh: Mesh) -> Compiled:
    """Compile the training step of a complete configuration.

    Raises:
        UserError: the mesh does not fit the network or the batch.
    """
    program = Program.build(config, mesh)
    placed = place_learner(program.learner(), mesh)
    shape = (config.train.batch_size, config.data.length)
    state = abstract_with_shardings(placed.abstract, placed.shardings)
    arguments = (state, _rows(shape, mesh), _key(mesh))
    step = jit_train_step(program.train_step(), mesh, placed.shardings)
    flops = traced_flops(Program.build(config).train_step(), *arguments)
    again = (config.train.microbatches - 1) * _bytes_held(state.params)
    return _compile(step, arguments, flops, mesh, read_again=again)


def compile_sampler(config: ExperimentConfig, mesh: Mesh, batch_size: int) -> Compiled:
    """Compile the reverse chain for so many rows, parameters whole on every device."""
    program = Program.build(config)
    reverse = make_reverse(program.model, config.model, program.schedule, config.sample)
    whole, rows = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        program.abstract_state().params,
    )
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch_size))
    keys = jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=rows)
    batch = _rows((batch_size, config.data.length), mesh)
    arguments = (params, keys, batch["input_ids"], batch["noise_mask"])
    again = (config.sample.steps - 1) * _bytes_held(params)
    flops = traced_flops(reverse, *arguments)
    return _compile(jax.jit(reverse), arguments, flops, mesh, read_again=again)


def largest_batch(config: ExperimentConfig, mesh: Mesh, memory: float, first: Compiled) -> int:
    """Estimate the largest global batch that fits, from the bytes that a row takes.

    Two compilations at different batches give the bytes per row; the answer is a multiple of what
    every device must get, rounded down. Where the compiler refuses, batches are halved until one
    compiles, and that is the answer; 0 where none does.

    Args:
        config: complete.
        mesh: the devices.
        memory: bytes of one.
        first: the step at the configured batch.
    """
    unit = config.train.microbatches
    for name in ("data", "fsdp"):
        unit *= mesh.shape[name]
    batch = config.train.batch_size
    other = max(unit, batch // 2 // unit * unit)
    if other == batch:
        other = 2 * batch

    def step(rows: int) -> Compiled:
        train = replace(config.train, batch_size=rows)
        return compile_training(replace(config, train=train), mesh)

    second = step(other)
    while second.peak_bytes is None and other > unit:
        # A compiler that knows the memory says nothing of what does not fit: go on with less.
        batch, first = other, second
        other = max(unit, other // 2 // unit * unit)
        second = step(other)
    if first.peak_bytes is None or second.peak_bytes is None:
        fitting = [b for b, c in ((batch, first), (other, second)) if c.peak_bytes is not None]
        return max(fitting, default=0)
    per_row = (first.peak_bytes - second.peak_bytes) / (batch - other)
    if per_row <= 0:
        return batch
    return max(0, int(batch + (memory - first.peak_bytes) / per_row) // unit * unit)


def _rows(shape: tuple[int, int], mesh: Mesh) -> dict[str, Any]:
    placement = batch_sharding(mesh)
    return {
        "input_ids": jax.ShapeDtypeStruct(shape, jnp.int32, sharding=placement),
        "noise_mask": jax.ShapeDtypeStruct(shape, jnp.bool_, sharding=placement),
    }


def _key(mesh: Mesh) -> Any:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(mesh, PartitionSpec()))


def _bytes_held(tree: Any) -> int:
    """Return the bytes that one device holds of abstract arrays."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _compile(
    function: Any, arguments: tuple[Any, ...], flops: int, mesh: Mesh, *, read_again: int
) -> Compiled:
    """Compile; ``read_again`` are bytes that loops read beyond the first time."""
    try:
        compiled = function.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if _NO_MEMORY not in str(error):
            raise
        message = str(error).splitlines()[0][:300]
        return Compiled(False, None, None, None, flops, None, [], None, True, message)
    memory = compiled.memory_analysis()
    module: Module = parse_hlo(compiled.as_text())
    found = collectives(module)
    rows = summary(found, dict(mesh.shape))
    new_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    arguments_bytes = memory.argument_size_in_bytes
    temporary = memory.temp_size_in_bytes
    peak = arguments_bytes + temporary + new_outputs + memory.generated_code_size_in_bytes
    return Compiled(
        fits=True,
        argument_bytes=arguments_bytes,
        temporary_bytes=temporary,
        peak_bytes=peak,
        flops=flops,
        memory_traffic=arguments_bytes + memory.output_size_in_bytes + 2 * temporary + read_again,
        collectives=rows,
        sent_bytes=sum(row["sent_bytes"] for row in rows),
        certain=all(item.certain for item in found),
        message="",
    )
