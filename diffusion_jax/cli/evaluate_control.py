"""``diffusion-jax evaluate-control``: success and fluency of control, beside baselines."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from diffusion_jax.cli.control import (
    HoleOptions,
    Several,
    judge_of,
    load_controller,
    steering_options,
)
from diffusion_jax.cli.options import (
    SampleOverrides,
    check_output,
    output_stream,
    parse,
    progress,
)
from diffusion_jax.cli.resuming import begin, options_file
from diffusion_jax.config.guidance import GuidanceConfig
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class EvaluateControlCommand:
    """Measure control: success and fluency by task, beside no control and rejection sampling.

    Targets are drawn from held-out texts (the grammar's test split; elsewhere --data). On the
    grammar, success and fluency are decided by parsing. A task is attribute, pos, tree, span,
    length or infill, or several of one text joined by "+".

    With --output control.json all texts are kept as they are written, in control.texts.jsonl, and
    an interrupted measurement goes on where it stopped with --resume.

    Example: diffusion-jax evaluate-control runs/small --classifier runs/attribute
        --task attribute --task attribute+length --num-targets 100 -n 50 -o control.json

    Attributes:
        checkpoint: the --workdir of a training run on single texts.
        classifier: a directory that train-classifier wrote; may be given several times.
        train_missing: train what the tasks need and --classifier does not bring, with
            train-classifier's defaults, into CHECKPOINT-TASK-READS; what is there is used again.
        classifier_corpus: the labelled corpus that --train-missing learns from, as train-classifier
            --corpus; default the model's own.
        task: what to measure; may be given several times.
        targets: JSON lines of targets, ours or Diffusion-LM's, as one more task of that name.
        data: held-out texts with labels; empty is the run's validation corpus, or the grammar's
            test split.
        teacher: a directory that train-ar wrote: fluency in nats per token.
        autoregressive: a directory that train-ar --prefix wrote: the baseline that is told the
            control; may be given several times.
        tagger: a spaCy pipeline, or its directory, that tags texts other than the grammar's (extra
            "annotate").
        parser: a benepar model that parses them; needs --tagger.
        num_targets: targets for each task.
        num: texts for each target.
        pool: texts without control, for the baselines; 0 leaves them out.
        output: JSON with all figures; "-" prints the table only and keeps no texts.
        resume: go on with the texts that were kept beside --output; tasks may be added.
        seed: of targets and texts.
        batch_size: rows per compiled call.
        weights: "ema", "ema RATE" or "params" (not averaged).
        checkpoint_step: which checkpoint; None is the newest that is intact.
        holes: layouts of templates.
        guidance: how to steer.
        sampling: how to sample, where it shall differ from the run's configuration.
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    classifier: Several = ()
    train_missing: bool = False
    classifier_corpus: str | None = None
    task: Several = ()
    targets: str | None = None
    data: str = ""
    teacher: str | None = None
    autoregressive: Several = ()
    tagger: str | None = None
    parser: str | None = None
    num_targets: int = 100
    num: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 50
    pool: int = 500
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "-"
    resume: bool = False
    seed: int = 0
    batch_size: int = 250
    weights: str = "ema"
    checkpoint_step: int | None = None
    holes: Annotated[HoleOptions, tyro.conf.arg(name="")] = field(default_factory=HoleOptions)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    sampling: Annotated[SampleOverrides, tyro.conf.arg(name="")] = field(
        default_factory=SampleOverrides
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(EvaluateControlCommand, "evaluate-control", arguments)
    kept_in = _kept_in(command)
    if command.num < 1 or command.num_targets < 1 or command.pool < 0:
        raise UserError("--num and --num-targets must be at least 1, --pool at least 0")
    if not command.task and command.targets is None:
        raise UserError("give --task (for example attribute) or --targets")
    if command.classifier_corpus is not None and not command.train_missing:
        raise UserError("--classifier-corpus is what --train-missing learns from; give that too")
    from diffusion_jax.control.kept import KeptTexts
    from diffusion_jax.control.measure import Measurement
    from diffusion_jax.control.table import table

    # What can be wrong is looked at before classifiers are trained.
    controller = load_controller(command)
    corpus = controller.config.data.corpus
    annotator = _annotator(command, corpus)
    tasks = _tasks(command, controller)
    teachers = _teachers(command, tasks)
    if command.train_missing:
        command = replace(command, classifier=_train_missing(command))
        controller = controller.with_classifiers(command.classifier)
    for targets in tasks.values():
        controller.check(targets)
    everything = [target for targets in tasks.values() for target in targets]
    judge = judge_of(controller, everything, annotator=annotator)
    if kept_in is not None:
        options = partial(_options, command, controller, teachers.get("writers", ()))
        begin(str(kept_in), options, resume=command.resume)
    run = Measurement(
        controller,
        judge,
        num_samples=command.num,
        seed=command.seed,
        batch_size=command.batch_size,
        pool_size=command.pool,
        kept=KeptTexts(kept_in),
        **teachers,
    )
    # The bar takes the place of sys.stdout where it is shown.
    stdout = sys.stdout
    with progress("writing", run.steps(tasks.values()), len(run.kept)) as run.advance:
        rows: list[Any] = []
        for task, targets in tasks.items():
            for row in run.rows(task, targets):
                rows.append(row)
                print(table([row]).splitlines()[2], file=stdout, flush=True)
    print("\n" + table(rows, published=not corpus.startswith("grammar:")))
    if command.output != "-":
        record = {
            "checkpoint": command.checkpoint,
            "classifiers": list(command.classifier),
            "seed": command.seed,
            "guidance": vars(command.guidance),
            "sampling": vars(controller.config.sample),
            "rows": [row.to_json() for row in rows],
        }
        with output_stream(command.output) as stream:
            print(json.dumps(record, indent=2), file=stream)
    return 0


def _kept_in(command: EvaluateControlCommand) -> Path | None:
    """Return where texts are kept; raises UserError where they, or the figures, cannot be."""
    check_output(command.output)
    if command.output == "-":
        if command.resume:
            raise UserError("--resume goes on with texts kept beside --output; give --output FILE")
        return None
    path = Path(command.output).with_suffix(".texts.jsonl")
    check_output(str(path), append=command.resume)
    if path.exists() and not options_file(str(path)).exists():
        raise UserError(f"{path} was not begun by evaluate-control; choose another --output")
    return path


def _options(
    command: EvaluateControlCommand, controller: Any, writers: Sequence[Any]
) -> dict[str, Any]:
    """Return what texts depend on, besides their task and target."""
    from diffusion_jax.workdir import params_digest

    digests = {writer.task: params_digest(writer.params) for writer in writers}
    return steering_options(command, controller, pool=command.pool, autoregressive=digests)


def _train_missing(command: EvaluateControlCommand) -> tuple[str, ...]:
    """Return the directories of all classifiers that are needed, after training what is missing.

    Raises:
        UserError: what is needed cannot be trained, or --classifier-corpus has no part in it.
    """
    from diffusion_jax.classifier_training import (
        classifier_config,
        other_corpus,
        read_base,
        train_classifier,
    )
    from diffusion_jax.config import ClassifierRunConfig
    from diffusion_jax.config.control import BEST_READS, CLASSIFIER_TRAIN
    from diffusion_jax.control.tasks import needed_classifiers
    from diffusion_jax.text.control_targets import read_targets
    from diffusion_jax.workdir import Workdir

    targets = [] if command.targets is None else read_targets(command.targets)
    given = {
        Workdir(path).read_config(ClassifierRunConfig).model.task for path in command.classifier
    }
    guidance = command.guidance
    at_states = guidance.method != "auto" and guidance.through == "classifier"
    corpus = command.classifier_corpus
    missing = sorted(needed_classifiers(command.task, targets) - given)
    if corpus is not None and not missing:
        raise UserError(
            f"nothing is trained on --classifier-corpus {corpus}: what is asked needs no "
            "classifier beside those of --classifier; leave it out"
        )
    # Read once, and only where something is missing.
    base = None
    found = list(command.classifier)
    for task in missing:
        reads = "state" if at_states else BEST_READS[task]
        directory = f"{command.checkpoint.rstrip('/')}-{task}-{reads}"
        saved = Workdir(directory)
        if not saved.is_run() or CLASSIFIER_TRAIN.steps not in saved.checkpoints().steps():
            base = base or read_base(
                command.checkpoint, weights=command.weights, step=command.checkpoint_step
            )
            data = None if corpus is None else other_corpus(base.config.data, corpus)
            config = classifier_config(task, base, reads=reads, data=data)
            train_classifier(config, base, directory, resume=True)
        elif corpus is not None:
            learned = saved.read_config(ClassifierRunConfig).data.corpus
            if learned != corpus:
                raise UserError(
                    f"{directory} was trained on {learned}, not on --classifier-corpus {corpus}; "
                    "remove it to train another, or leave the option out to use it"
                )
        found.append(directory)
    return tuple(found)


def _teachers(command: EvaluateControlCommand, tasks: dict[str, list[Any]]) -> dict[str, Any]:
    """Return the judge of fluency and the baselines that were given."""
    if command.teacher is None and not command.autoregressive:
        return {}
    from diffusion_jax.control.measure import common_controls
    from diffusion_jax.control.teacher import load_fluency, load_writer

    writers = [load_writer(path) for path in command.autoregressive]
    asked = [common_controls(targets) for targets in tasks.values()]
    for path, writer in zip(command.autoregressive, writers):
        if (writer.task,) not in asked:
            raise UserError(
                f"--autoregressive {path} is told {writer.task}, and no task asks for that alone; "
                f"add --task {writer.task}, or leave it out"
            )
    return {
        "fluency": None if command.teacher is None else load_fluency(command.teacher),
        "writers": writers,
    }


def _annotator(command: EvaluateControlCommand, corpus: str) -> Any:
    """Return what tags and parses texts, None where it was not asked for."""
    if command.tagger is None:
        if command.parser is not None:
            raise UserError(
                "--parser needs the spaCy pipeline that splits sentences: give --tagger"
            )
        return None
    if corpus.startswith("grammar:"):
        raise UserError("the grammar's own parser judges its texts; leave --tagger out")
    from diffusion_jax.control.annotators import spacy_annotator

    return spacy_annotator(command.tagger, command.parser)


def _tasks(command: EvaluateControlCommand, controller: Any) -> dict[str, list[Any]]:
    """Return the targets of each task; raises UserError before anything is compiled."""
    from diffusion_jax.control.tasks import draw_targets, held_out, parse_task
    from diffusion_jax.text.control_targets import read_targets

    for task in command.task:
        parse_task(task)
    tasks = {}
    if command.task:
        examples = held_out(controller.config.data, command.data, command.seed)
        for task in command.task:
            tasks[task] = draw_targets(
                task,
                examples,
                command.num_targets,
                command.seed,
                controller.tokenizer,
                max_tokens=controller.length - 2,
                mask=command.holes.mask,
            )
    if command.targets is not None:
        tasks[Path(command.targets).name] = read_targets(command.targets)[: command.num_targets]
    return tasks
