"""``diffusion-jax infill``: fill the holes of a template."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from diffusion_jax.cli.control import HoleOptions, describe, judge_of, load_controller
from diffusion_jax.cli.options import SampleOverrides, check_output, output_stream, parse
from diffusion_jax.config.guidance import GuidanceConfig
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class InfillCommand:
    """Fill the holes of a template; the words beside them are kept exactly.

    Holes have no known length: every way to lay them out within the bounds (--max-layouts of them,
    spread evenly, where there are more) is tried, and --num candidates go to the layouts that the
    model itself likes (by a pseudo log-likelihood of the whole text, see docs/control.md). The best
    are written, ranked by the same score or by agreement among them ("mbr").

    Example: diffusion-jax infill runs/e2e --template "The Vaults ___ family ___ ." --mask ___

    Attributes:
        checkpoint: the --workdir of a training run on single texts.
        template: words and holes.
        input: one template a line, instead of one; "-" is standard input.
        num: candidates for each template.
        top: how many of the candidates to write for each template.
        choose: rank by the "model" itself or by agreement ("mbr").
        output: file to write; "-" is standard output. An existing file is not overwritten.
        format: "text", with an empty line between the texts of two templates, or "jsonl" with
            {"template", "text", "holds", "scores"}.
        seed: candidate i depends on the seed and i alone.
        batch_size: rows per compiled call.
        weights: "ema", "ema RATE" or "params" (not averaged).
        checkpoint_step: which checkpoint; None is the newest that is intact.
        holes: layouts of a template.
        guidance: how given words are kept: put in place, or --guidance.keep-by gradient.
        sampling: how to sample, where it shall differ from the run's configuration.
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    template: str | None = None
    input: Annotated[str | None, tyro.conf.arg(aliases=["-i"])] = None
    num: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 20
    top: int = 5
    choose: Literal["model", "mbr"] = "model"
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "-"
    format: Literal["text", "jsonl"] = "text"
    seed: int = 0
    batch_size: int = 64
    weights: str = "ema"
    checkpoint_step: int | None = None
    holes: Annotated[HoleOptions, tyro.conf.arg(name="")] = field(default_factory=HoleOptions)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    sampling: Annotated[SampleOverrides, tyro.conf.arg(name="")] = field(
        default_factory=SampleOverrides
    )
    classifier: tyro.conf.Suppress[tuple[str, ...]] = ()


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(InfillCommand, "infill", arguments)
    if command.num < 1 or command.top < 1:
        raise UserError(f"--num {command.num} --top {command.top}: both must be at least 1")
    check_output(command.output)
    targets = _read_templates(command)
    from diffusion_jax.control.choose import rank

    controller = load_controller(command)
    controller.check(targets)
    judge = judge_of(controller, targets)
    written = controller.write(
        targets, command.num, seed=command.seed, batch_size=command.batch_size
    )
    with output_stream(command.output) as stream:
        for number, (target, candidates) in enumerate(zip(targets, written)):
            if number and command.format == "text":
                print(file=stream)
            for best in rank(candidates, command.choose)[: command.top]:
                text = best.text
                if command.format == "jsonl":
                    record = {"template": target.keep, **describe(best, judge(text, target))}
                    text = json.dumps(record, ensure_ascii=False)
                print(text.rstrip("\n"), file=stream, flush=True)
    return 0


def _read_templates(command: InfillCommand) -> list:
    """Return one target for each template."""
    from diffusion_jax.text.control_targets import make_target
    from diffusion_jax.text.files import read_input

    if (command.template is None) == (command.input is None):
        raise UserError("give --template, or --input with one template a line")
    if command.template is not None:
        return [make_target(keep=command.template)]
    lines = [line for _, line in read_input(command.input or "") if line.strip()]
    if not lines:
        raise UserError(f"{command.input}: holds no template")
    return [make_target(keep=line) for line in lines]
