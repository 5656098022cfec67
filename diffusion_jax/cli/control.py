"""``diffusion-jax control``: write texts that are as asked."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from diffusion_jax.cli.options import SampleOverrides, check_output, output_stream, parse
from diffusion_jax.cli.resuming import begin, count_done
from diffusion_jax.config.guidance import GuidanceConfig
from diffusion_jax.errors import UserError

Several = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True)
class TargetOptions:
    """One target; several controls at once are composed.

    Attributes:
        attribute: FIELD=VALUE, for example food=Italian, or food=absent for what shall not be
            said; may be given several times.
        length: tokens of the text.
        pos: one Universal POS tag for each token, "*" for any: "DET NOUN VERB * NOUN PUNCT".
        tree: a constituency tree in brackets; its words do not matter: "(S (NP a b) (VP c d))".
        span: START:END=LABEL, tokens from 0, both ends included: 3:5=PP; may be given several
            times.
        keep: words to keep and holes: "The Vaults ___ family ___ ."
        keyword: a word that must appear; may be given several times.
    """

    attribute: Several = ()
    length: int | None = None
    pos: str | None = None
    tree: str | None = None
    span: Several = ()
    keep: str | None = None
    keyword: Several = ()

    def is_empty(self) -> bool:
        """Return whether nothing is asked."""
        return self == TargetOptions()


@dataclass(frozen=True)
class HoleOptions:
    """How the holes of a template are laid out.

    Attributes:
        mask: what marks a hole; it may touch words.
        min_hole: fewest tokens of a hole.
        max_hole: most tokens of a hole.
        max_layouts: try no more ways to lay out the holes than this, spread evenly over all.
        screen: texts for each layout, from which the model says which layouts get the candidates.
    """

    mask: str = "___"
    min_hole: int = 1
    max_hole: int = 6
    max_layouts: int = 64
    screen: int = 1


@dataclass(frozen=True)
class ControlCommand:
    """Write texts that are as asked: attributes, length, parts of speech, tree, given words.

    Each line of output is {"id", "target", "text", "holds", "scores", "candidates"}: the best
    candidate, which controls it obeys, and its scores; where a tree or spans are asked for, also
    {"tree"}, as its classifier reads the text. An interrupted run goes on with --resume.

    Example: diffusion-jax control runs/e2e --classifier runs/attribute
        --attribute food=Italian --length 14 -n 10

    Attributes:
        checkpoint: the --workdir of a training run on single texts.
        classifier: a directory that train-classifier wrote; may be given several times, one for
            each task. Attributes, parts of speech, trees and spans need one.
        target: what is asked.
        targets: JSON lines with many targets, ours or Diffusion-LM's, instead of one.
        num: candidates for each target.
        choose: the best by "classifier" (the default where one is given), by the "model" itself, or
            by agreement ("mbr").
        output: file to write; "-" is standard output. An existing file is not overwritten.
        resume: continue an output file that was begun.
        trace: also write a page that shows how the text of one target forms, step by step.
        trace_target: which target --trace shows, counted from 0 as "id" is; None is the first.
        seed: candidate i of target k depends on the seed, k and i alone.
        batch_size: rows per compiled call.
        weights: "ema", "ema RATE" or "params" (not averaged).
        checkpoint_step: which checkpoint; None is the newest that is intact.
        holes: layouts of a template.
        guidance: how to steer.
        sampling: how to sample, where it shall differ from the run's configuration.
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    classifier: Several = ()
    target: Annotated[TargetOptions, tyro.conf.arg(name="")] = field(default_factory=TargetOptions)
    targets: str | None = None
    num: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 10
    choose: Literal["classifier", "model", "mbr"] | None = None
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "-"
    resume: bool = False
    trace: str | None = None
    trace_target: int | None = None
    seed: int = 0
    batch_size: int = 64
    weights: str = "ema"
    checkpoint_step: int | None = None
    holes: Annotated[HoleOptions, tyro.conf.arg(name="")] = field(default_factory=HoleOptions)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    sampling: Annotated[SampleOverrides, tyro.conf.arg(name="")] = field(
        default_factory=SampleOverrides
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(ControlCommand, "control", arguments)
    if command.num < 1:
        raise UserError(f"--num {command.num}: ask for at least 1 candidate")
    check_output(command.output, append=command.resume)
    if command.trace is not None:
        check_output(command.trace)
        if Path(command.trace).resolve() == Path(command.output).resolve():
            raise UserError(f"--trace and --output are both {command.trace}; give two files")
    targets = _read_targets(command)
    traced = _traced_target(command, len(targets))
    records = [target.to_json() for target in targets]
    done = 0
    if command.resume:
        done = count_done(
            command.output,
            ((index, record, command.num) for index, record in enumerate(records)),
            lambda r: (r["id"], r["target"], len(r["candidates"])),
            "id, target and number of candidates",
        )
    from diffusion_jax.control.choose import order
    from diffusion_jax.control.read_back import trees_of

    controller = load_controller(command)
    if command.choose == "classifier" and not controller.classifiers:
        raise UserError("--choose classifier needs a --classifier; choose by model or mbr")
    how = command.choose or "classifier"
    controller.check(targets)
    judge = judge_of(controller, targets)

    options = partial(steering_options, command, controller, choose=how)
    begin(command.output, options, resume=command.resume)
    write = partial(
        controller.write, num_samples=command.num, seed=command.seed, batch_size=command.batch_size
    )
    written = write(targets[done:], first_index=done)
    shown = None
    with output_stream(command.output, append=command.resume) as stream:
        for index, candidates in enumerate(written, start=done):
            best = order(candidates, how)[0]
            if index == traced:
                shown = best, candidates[best].plan
            described = [describe(c, judge(c.text, targets[index])) for c in candidates]
            if targets[index].tree is not None or targets[index].spans:
                seen = trees_of(controller, [candidate.text for candidate in candidates])
                described = [{**each, "tree": tree} for each, tree in zip(described, seen)]
            record = {"id": index, "target": records[index], **described[best]}
            record["candidates"] = described
            print(json.dumps(record, ensure_ascii=False), file=stream, flush=True)
            if command.output != "-" and sys.stderr.isatty():
                print(f"\r{index + 1} of {len(targets)}", end="", file=sys.stderr)
    if command.trace is not None:
        from diffusion_jax.control.trace import write_trace

        if shown is None:
            # Its line was there before this run; the same candidates are written once more.
            candidates = next(write([targets[traced]], first_index=traced))
            best = order(candidates, how)[0]
            shown = best, candidates[best].plan
        best, plan = shown
        write_trace(
            controller, plan, command.trace, seed=command.seed, index=traced, candidate=best
        )
    return 0


def load_controller(command: Any) -> Any:
    """Return the controller that a command's options describe."""
    from diffusion_jax.control.layouts import Holes
    from diffusion_jax.control.steer import Controller
    from diffusion_jax.generate import check_batch_and_seed

    check_batch_and_seed(command.batch_size, command.seed)
    asked = command.holes
    if asked.screen < 1 or asked.max_layouts < 1:
        raise UserError("--screen and --max-layouts must be at least 1")
    if not 1 <= asked.min_hole <= asked.max_hole:
        raise UserError(
            f"--min-hole {asked.min_hole} and --max-hole {asked.max_hole}: give at least 1, the "
            "second no less than the first"
        )
    holes = Holes(asked.mask, asked.min_hole, asked.max_hole, asked.max_layouts, asked.screen)
    return Controller.from_checkpoint(
        command.checkpoint,
        command.classifier,
        command.guidance,
        weights=command.weights,
        step=command.checkpoint_step,
        holes=holes,
        **command.sampling.given(),
    )


def steering_options(command: Any, controller: Any, **others: Any) -> dict[str, Any]:
    """Return what steered texts depend on besides their target, as JSON values, and ``others``."""
    from diffusion_jax.workdir import params_digest

    told = controller.classifiers.items()
    return controller.generator.options(
        seed=command.seed,
        num=command.num,
        guidance=dataclasses.asdict(command.guidance),
        holes=dataclasses.asdict(command.holes),
        classifiers={task: params_digest(trained.params) for task, trained in told},
        **others,
    )


def judge_of(controller: Any, targets: Sequence[Any], *, annotator: Any = None) -> Any:
    """Return the judge of what a controller writes for targets.

    Raises:
        UserError: a classifier or an option of guidance that does nothing for any of the targets.
    """
    from diffusion_jax.control.judge import make_judge
    from diffusion_jax.control.used import check_all_used

    check_all_used(
        controller.options,
        controller.classifiers,
        targets,
        draws_noise=controller.config.sample.draws_noise,
    )
    return make_judge(
        controller.config.data.corpus,
        controller.tokenizer,
        mask=controller.holes.mask,
        annotator=annotator,
        fields=controller.fields,
    )


def describe(candidate: Any, verdict: Any) -> dict[str, Any]:
    """Return a candidate as JSON values: text, which controls hold, scores."""
    scores = {**candidate.log_probs, "model": candidate.model_score}
    record = {
        "text": candidate.text,
        "holds": verdict.holds,
        "scores": {name: round(value, 4) for name, value in scores.items()},
    }
    if verdict.fluent is not None:
        record["in_language"] = verdict.fluent
    return record


def _traced_target(command: ControlCommand, count: int) -> int:
    """Return the number of the target that is traced; UserError where there is none of count."""
    number = command.trace_target
    if number is None:
        return 0
    if command.trace is None:
        raise UserError(f"--trace-target {number} needs a page to write; give --trace PAGE.html")
    if not 0 <= number < count:
        raise UserError(f"--trace-target {number}: targets are counted from 0 to {count - 1}")
    return number


def _read_targets(command: ControlCommand) -> list[Any]:
    """Return the targets of the file, or the one of the command line."""
    from diffusion_jax.text.control_targets import make_target, read_targets

    if command.targets is not None:
        if not command.target.is_empty():
            raise UserError("give --targets or a target by its options, not both")
        return read_targets(command.targets)
    asked = command.target
    return [
        make_target(
            attributes=asked.attribute,
            length=asked.length,
            pos=asked.pos,
            tree=asked.tree,
            spans=asked.span,
            keep=asked.keep,
            keywords=asked.keyword,
        )
    ]
