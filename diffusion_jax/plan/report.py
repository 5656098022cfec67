"""A plan: everything that is known of a run before a chip is paid for."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax

from diffusion_jax.config import ExperimentConfig
from diffusion_jax.errors import UserError
from diffusion_jax.plan.chips import Topology
from diffusion_jax.plan.compiled import (
    Compiled,
    compile_sampler,
    compile_training,
    largest_batch,
    plan_mesh,
    topology_devices,
)
from diffusion_jax.plan.estimate import SECONDS_PER_DAY, advice, roofline, within
from diffusion_jax.program import Program
from diffusion_jax.scale.flops import train_flops

MANY_CHIPS = 64
GPU_NOTE = (
    "GPUs: compiled for as many CPU devices on the same mesh. Exact: bytes of the state, "
    "operations. The CPU compiler's: temporaries, collectives, bytes moved. Analytic: times, from "
    "the published peaks."
)


def make_plan(
    config: ExperimentConfig, topology: Topology, *, sampler: bool = True, batches: bool = True
) -> dict[str, Any]:
    """Compile a complete configuration for a topology and gather what follows from it.

    Args:
        config: with ``model.vocab_size`` set.
        topology: the chips.
        sampler: compile the sampler too, with as many rows as the training batch.
        batches: find the largest batch that fits, which takes a second compilation.

    Returns:
        A JSON record; bytes and seconds are plain numbers.

    Raises:
        UserError: the mesh does not fit, or there is no compiler for the topology.
    """
    mesh, chip = plan_mesh(config, topology), topology.chip
    training = compile_training(config, mesh)
    state = Program.build(config).abstract_state()
    tokens = config.train.batch_size * config.data.length
    asked = config.train.batch_size * train_flops(
        config.model, config.data.length, self_cond_rate=config.diffusion.self_cond_rate
    )
    plan: dict[str, Any] = {
        "name": config.name,
        "topology": topology.name,
        "chip": chip.name,
        "chips": topology.num_chips,
        "chip_memory": chip.memory,
        "source": chip.source,
        "mesh": dict(mesh.shape),
        "remat": config.model.remat,
        "dtype": config.model.dtype,
        "microbatches": config.train.microbatches,
        "batch": config.train.batch_size,
        "length": config.data.length,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "model_flops": asked,
        "training": _record(training, topology),
    }
    memory_note = advice(
        training,
        chip.memory,
        remat=config.model.remat,
        fsdp=mesh.shape["fsdp"],
        num_chips=topology.num_chips // mesh.shape["tensor"],
    )
    plan["fits"] = not memory_note
    plan["advice"] = memory_note
    line = roofline(training, chip, topology.num_chips)
    if line:
        steps = config.train.steps
        plan["run"] = {
            "steps": steps,
            "tokens": steps * tokens,
            "days": steps * line.serial / SECONDS_PER_DAY,
            "days_overlapped": steps * line.overlapped / SECONDS_PER_DAY,
            "tokens_per_second": tokens / line.serial,
            "model_flops_utilisation": asked / topology.num_chips / chip.peak / line.serial,
        }
    if batches:
        plan["largest_batch"] = largest_batch(config, mesh, chip.memory, training)
    if sampler:
        rows = config.train.batch_size // config.train.microbatches
        rows = -(-rows // topology.num_chips) * topology.num_chips
        chain = compile_sampler(config, mesh, rows)
        plan["sampler"] = {"rows": rows, "steps": config.sample.steps, **_record(chain, topology)}
        if not within(chain, chip.memory):
            plan["fits"] = False
            plan["advice"] = memory_note or (
                "training fits, the sampler does not: it holds all parameters on every chip; write "
                "fewer rows at a time, or on chips with more memory (--no-sampler plans without)"
            )
    if chip.platform == "gpu":
        plan["note"] = GPU_NOTE
    return plan


def search(
    config: ExperimentConfig, topology: Topology, *, sampler: bool = False, batches: bool = False
) -> list[dict[str, Any]]:
    """Plan the training step on every mesh and policy of ``candidates``, the best first.

    Those that fit come first, by estimated step time without overlap; then those that do not.

    Args:
        config: with ``model.vocab_size`` set.
        topology: the chips.
        sampler: compile the sampler of the best one too.
        batches: find the largest batch of the best one.

    Raises:
        UserError: there is no compiler for the topology, or no mesh fits the network and the batch.
    """
    topology_devices(topology)  # What is wrong with them is wrong with every mesh.
    found: list[tuple[ExperimentConfig, dict[str, Any]]] = []
    refused = ""
    for candidate in candidates(config, topology.num_chips):
        try:
            plan = make_plan(candidate, topology, sampler=False, batches=False)
        except UserError as error:
            # This mesh does not divide the batch or the network.
            refused = refused or str(error)
            continue
        found.append((candidate, plan))
    if not found:
        raise UserError(
            f"no mesh of {topology.num_chips} chips suits batch size {config.train.batch_size} and "
            f"the network; the first that was tried: {refused}"
        )
    found.sort(key=lambda pair: (not pair[1]["fits"], _seconds(pair[1])))
    if sampler or batches:
        best = make_plan(found[0][0], topology, sampler=sampler, batches=batches)
        found[0] = (found[0][0], best)
    return [plan for _, plan in found]


def candidates(config: ExperimentConfig, num_chips: int) -> Iterator[ExperimentConfig]:
    """Yield the configurations that a search compiles, the one that was given first.

    Tensor axes are powers of two to 8 that divide the heads, fsdp axes powers of two and all that
    is left; beyond MANY_CHIPS chips, where a compilation takes long, fewer. Each with every
    rematerialisation policy.
    """
    yield config
    for tensor in (1, 2, 4, 8):
        if num_chips % tensor or config.model.num_heads % tensor:
            continue
        rest = num_chips // tensor
        powers = (8, 32) if num_chips > MANY_CHIPS else (2, 4, 8, 16, 32, 64)
        for fsdp in sorted({1, *(power for power in powers if rest % power == 0), rest}):
            for remat in ("none", "dots", "full"):
                mesh = replace(config.mesh, data=rest // fsdp, fsdp=fsdp, tensor=tensor)
                other = replace(config, mesh=mesh, model=replace(config.model, remat=remat))
                if other != config:
                    yield other


def lines(plan: dict[str, Any]) -> list[str]:
    """Return a plan as a reader wants it."""
    mesh = " x ".join(f"{name} {size}" for name, size in plan["mesh"].items())
    text = [
        f"{plan['name']} on {plan['topology']}: {plan['chips']} x {plan['chip']} "
        f"({_bytes(plan['chip_memory'])} each; figures: {plan['source']})",
        f"  mesh {mesh}; remat {plan['remat']}; {plan['dtype']}; batch {plan['batch']} x "
        f"{plan['length']} in {plan['microbatches']} microbatches",
        f"  {plan['parameters']:,} parameters; {plan['model_flops']:.3e} FLOPs a step "
        f"({plan['training']['flops']:.3e} with what is computed again)",
        "training step, per device:",
        *_program_lines(plan["training"]),
    ]
    if "run" in plan:
        run = plan["run"]
        text.append(
            f"  {run['steps']:,} steps, {run['tokens']:.3e} tokens: {run['days']:.2f} days "
            f"({run['days_overlapped']:.2f} if all overlaps), {run['tokens_per_second']:,.0f} "
            f"tokens/s, {run['model_flops_utilisation']:.0%} of the peak (an upper bound)"
        )
    if "largest_batch" in plan:
        rows = plan["largest_batch"]
        said = f"about {rows:,} rows" if rows else "none that was compiled"
        text.append(f"  largest batch that fits: {said}")
    if "sampler" in plan:
        chain = plan["sampler"]
        text += [f"sampler, {chain['rows']} rows, {chain['steps']} steps, per device:"]
        text += _program_lines(chain)
    text.append("fits" if plan["fits"] else plan["advice"])
    return text + ([plan["note"]] if "note" in plan else [])


def _program_lines(record: dict[str, Any]) -> list[str]:
    if not record["fits"]:
        return [f"  does not compile: {record['message']}"]
    line = record["roofline"]
    rows = [
        f"    {row['kind']:<20} over {row['over']:<12} {row['times']:>6} times, "
        f"{_bytes(row['payload_bytes'])}, sends {_bytes(row['sent_bytes'])}"
        for row in record["collectives"]
    ]
    return [
        f"  arguments {_bytes(record['argument_bytes'])}, temporaries "
        f"{_bytes(record['temporary_bytes'])}, peak {_bytes(record['peak_bytes'])}",
        "  collectives:" if rows else "  no collectives",
        *rows,
        f"  at the chip's peaks: compute {_time(line['compute'])}, memory {_time(line['memory'])}, "
        f"links {_time(line['links'])}; {_time(line['overlapped'])} to {_time(line['serial'])}, "
        f"bound by {line['bound_by']}",
    ]


def _record(compiled: Compiled, topology: Topology) -> dict[str, Any]:
    line = roofline(compiled, topology.chip, topology.num_chips)
    return {**compiled._asdict(), "roofline": line and line._asdict()}


def _seconds(plan: dict[str, Any]) -> float:
    line = plan["training"]["roofline"]
    return line["serial"] if line else float("inf")


def _bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f} B"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
