"""``diffusion-jax plan``: what a run would take on hardware that is not here."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from diffusion_jax.cli.options import check_output, output_stream, parse, ready_to_compile
from diffusion_jax.config import ExperimentConfig
from diffusion_jax.config_io import load_experiment


@dataclass(frozen=True)
class PlanCommand:
    """Compile training step and sampler for chips that are not here: memory, traffic, time.

    Any field of the experiment can be overridden by its dotted name. TPUs need the extra "tpu" (the
    compiler, no chip); GPUs are planned on CPU devices of the same mesh.

    Example: diffusion-jax plan --experiment experiments/scaling/large.py --scale 1.3b
        --topology v5e:16x16

    Attributes:
        experiment: a Python file with config(scale), or a JSON file.
        topology: chips, as v5e:4x4, v6e:16x16, v4:4x4x8, v5p:8x8x8, h100:8, a100:8 or gpu:8.
        scale: which size of the experiment.
        search: try meshes and rematerialisation policies, and rank them.
        sampler: compile the sampler too (of a search: of the best).
        largest_batch: find the largest batch that fits (one more compilation; likewise).
        output: also append the plan as a JSON line to this file.
        config: the experiment's fields.
    """

    experiment: str
    topology: str
    scale: str = "full"
    search: bool = False
    sampler: bool = True
    largest_batch: bool = True
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = ""
    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(PlanCommand, "plan", arguments, default=_defaults(arguments))
    from diffusion_jax.plan.chips import parse_topology

    topology = parse_topology(command.topology)
    if command.output:
        check_output(command.output, append=True)
    import jax

    jax.config.update("jax_platforms", "cpu")
    if topology.chip.platform == "gpu":
        jax.config.update("jax_num_cpu_devices", topology.num_chips)
    from diffusion_jax.plan.report import lines, make_plan, search

    config = ready_to_compile(command.config)
    if command.search:
        plans = search(config, topology, sampler=command.sampler, batches=command.largest_batch)
        for rank, plan in enumerate(plans, 1):
            print(f"{rank}. {'fits' if plan['fits'] else plan['advice']}")
            print("\n".join(lines(plan)[1:2]))
        plans = [{"rank": rank, **plan} for rank, plan in enumerate(plans, 1)]
        print("\nThe best:")
        print("\n".join(lines(plans[0])))
    else:
        plans = [
            make_plan(config, topology, sampler=command.sampler, batches=command.largest_batch)
        ]
        print("\n".join(lines(plans[0])))
    if command.output:
        with output_stream(command.output, append=True) as stream:
            for plan in plans:
                print(json.dumps(plan), file=stream)
    return 0


def _defaults(arguments: Sequence[str]) -> PlanCommand | None:
    """Read the experiment first: its fields are the defaults that the other arguments override."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--experiment")
    parser.add_argument("--scale", default="full")
    known, _ = parser.parse_known_args(list(arguments))
    if known.experiment is None:
        return None
    config = load_experiment(known.experiment, known.scale)
    return PlanCommand(known.experiment, tyro.MISSING, scale=known.scale, config=config)
