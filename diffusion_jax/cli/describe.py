"""``diffusion-jax describe``: what an experiment or a run is, before any money is spent."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from diffusion_jax.cli.experiment_file import SUFFIXES, experiment_named_in
from diffusion_jax.cli.options import parse, ready_to_compile
from diffusion_jax.config import ExperimentConfig
from diffusion_jax.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class DescribeCommand:
    """Show what an experiment or a run is: configuration, parameters, memory, checkpoints.

    Any field of an experiment can be overridden by its dotted name.

    Example: diffusion-jax describe experiments/e2e.py --vocab-size 821 --compile

    Attributes:
        path: an experiment file (.py, .json) or the --workdir of a run.
        scale: which size of the experiment.
        vocab_size: for an experiment: skip reading the corpus and assume this many tokens.
        compile: also compile the training step for this machine: operations and memory per step.
        config: the experiment's fields.
    """

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")]
    scale: str = "full"
    vocab_size: int | None = None
    compile: bool = False
    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(DescribeCommand, "describe", arguments, default=_defaults(arguments))
    from rich.console import Console

    from diffusion_jax.program import Program
    from diffusion_jax.workdir import Workdir

    console = Console()
    is_experiment = command.path.endswith(SUFFIXES)
    if is_experiment:
        config = _complete(command)
    else:
        config = Workdir(command.path).read_config()
        if command.config != ExperimentConfig() or command.vocab_size is not None:
            raise UserError(f"{command.path} is a run, and is what it is; leave its fields out")
    program = Program.build(config)
    abstract = program.abstract_state()
    console.print(config.to_json().rstrip(), markup=False, highlight=False)
    console.print(_parameter_table(abstract.params))
    console.print(f"training state: {_megabytes(abstract)} (parameters, averages, optimiser)")
    if not is_experiment:
        steps = Workdir(command.path).checkpoints().steps()
        console.print(f"checkpoints: {', '.join(map(str, steps)) or 'none'}")
    if command.compile:
        console.print(_compiled(program, abstract))
    return 0


def _defaults(arguments: Sequence[str]) -> DescribeCommand | None:
    """Read the experiment first: its fields are the defaults that the other arguments override."""
    if not (named := experiment_named_in(arguments, ("compile",))):
        return None
    return DescribeCommand(tyro.MISSING, scale=named.scale, config=named.config)


def _complete(command: DescribeCommand) -> ExperimentConfig:
    config = command.config
    if command.vocab_size is not None:
        config = replace(config, model=replace(config.model, vocab_size=command.vocab_size))
    return ready_to_compile(config)


def _parameter_table(params: Any) -> "Table":
    import jax
    from rich.table import Table

    table = Table("parameter", "shape", "count", title="Parameters")
    for column in table.columns[1:]:
        column.justify = "right"
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        name = "/".join(str(part.key) for part in path)
        table.add_row(name, "x".join(map(str, leaf.shape)), f"{leaf.size:,}")
    table.add_section()
    table.add_row("all", "", f"{sum(leaf.size for _, leaf in leaves):,}")
    return table


def _megabytes(tree: Any) -> str:
    import jax

    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    return f"{total / 2**20:,.1f} MiB"


def _compiled(program: Any, abstract: Any) -> str:
    """Return operations and memory of the compiled training step, for one device."""
    import jax
    import jax.numpy as jnp

    config = program.config
    shape = (config.train.batch_size, config.data.length)
    batch = {
        "input_ids": jax.ShapeDtypeStruct(shape, jnp.int32),
        "noise_mask": jax.ShapeDtypeStruct(shape, jnp.bool_),
    }
    step = jax.jit(program.train_step(), donate_argnums=0)
    compiled = step.lower(abstract, batch, jax.eval_shape(lambda: jax.random.key(0))).compile()
    memory = compiled.memory_analysis()
    beside = f"{memory.temp_size_in_bytes / 2**20:,.1f} MiB" if memory else "unknown memory"
    cost = compiled.cost_analysis() or {}
    return (
        f"one training step of {shape[0]} x {shape[1]} tokens: "
        f"{cost.get('flops', float('nan')) / 1e9:,.1f} GFLOP, "
        f"{beside} beside the state"
    )
