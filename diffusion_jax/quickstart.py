"""Five minutes on a laptop: learn the built-in language and measure the result exactly.

Because the language is a grammar that we know, nothing here is a proxy: whether a sentence belongs
to it, what it says, and the best likelihood that any model can reach are all decided by parsing.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from diffusion_jax.config import (
    DataConfig,
    DiffusionConfig,
    ExperimentConfig,
    OptimConfig,
    SampleConfig,
    TokenizerConfig,
    TrainConfig,
)
from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.corpus_bound import corpus_bound
from diffusion_jax.evaluate.likelihood import LikelihoodSummary
from diffusion_jax.experiment import TrainResult, train
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.program import Program
from diffusion_jax.text.grammar import load_grammar
from diffusion_jax.train.progress import ProgressReport
from diffusion_jax.workdir import Workdir

Task = Literal["text", "seq2seq"]
Size = Literal["small", "full"]

# The longest rows of each task and size (special tokens included), with a little room.
_ROW_LENGTHS = {
    ("text", "small"): 18,
    ("text", "full"): 42,
    ("seq2seq", "small"): 44,
    ("seq2seq", "full"): 80,
}
# What five minutes on two cores allow.
_STEPS = {"text": 9000, "seq2seq": 4500}
NUM_SAMPLES = 500
NUM_SHOWN = 8
ENTROPY_SENTENCES = 5000


@dataclass(frozen=True)
class QuickstartReport:
    """What a quickstart found.

    Attributes:
        task: "text" or "seq2seq".
        size: of the grammar.
        num_samples: texts that were judged.
        in_language: share of them that are sentences of the language.
        says_exactly: share that say exactly the attributes asked for ("seq2seq").
        distinct: number of different texts among them.
        new: share of the different texts that are not in the training corpus.
        bound: variational bound on validation sentences, nats per sentence ("text").
        bound_error: its standard error.
        entropy: of the source: what a perfect model would reach, nats per sentence.
        entropy_error: its standard error.
        train_seconds: training, compilation included.
        total_seconds: from start to report.
        steps: training steps.
        waiting: share of the training time that was spent waiting for data.
    """

    task: str
    size: str
    num_samples: int
    in_language: float
    says_exactly: float | None
    distinct: int
    new: float
    bound: float | None
    bound_error: float | None
    entropy: float
    entropy_error: float
    train_seconds: float
    total_seconds: float
    steps: int
    waiting: float


def quickstart_config(task: Task, size: Size, *, steps: int | None = None) -> ExperimentConfig:
    """Return the configuration of a quickstart: a small Diffusion-LM or DiffuSeq."""
    pair = task == "seq2seq"
    length = _ROW_LENGTHS[task, size]
    steps = _STEPS[task] if steps is None else steps
    if steps < 1:
        raise UserError(f"--steps {steps}: train for at least 1 step")
    return ExperimentConfig(
        name=f"quickstart-{task}-{size}",
        data=DataConfig(
            corpus=f"grammar:{size}/data_to_text" if pair else f"grammar:{size}",
            task="pair" if pair else "text",
            size=50_000,
            length=length,
            on_long="drop",
        ),
        tokenizer=TokenizerConfig(kind="word", min_count=0),
        # The published network (post-LN, PyTorch's initialisation), small, and self-conditioned.
        model=DenoiserConfig(
            embed_dim=64,
            hidden_dim=128,
            num_layers=4,
            num_heads=8 if pair else 4,
            mlp_dim=512,
            max_length=length,
            time_dim=64,
            dropout=0.0,
            attention_dropout=0.0,
            init="torch",
            self_conditioning=True,
            relative_positions="mixed" if pair else "local",
        ),
        diffusion=DiffusionConfig(
            timestep_sampler="stratified",
            self_cond_rate=0.5,
            positions="target" if pair else "all",
            # Without it some rare words are never written; pairs learn a little more slowly with it
            # (benchmarks/results/quickstart.md, techniques.md).
            snr_weight=0.0 if pair else 1.0,
        ),
        # A short run wants a fast optimiser: a high rate, and second moments that forget quickly.
        optim=OptimConfig(
            learning_rate=5e-3, warmup_steps=min(100, steps // 10), clip_norm=1.0, betas=(0.9, 0.95)
        ),
        train=TrainConfig(
            steps=steps,
            batch_size=32,
            ema_rates=(0.99,),
            validate_every=1000,
            preview_every=500,
            checkpoint_every=1000,
        ),
        # Calmer noise and a network that expects more of it than there is: fewer slips.
        sample=SampleConfig(steps=100, noise_scale=0.7, time_shift=0.05),
    )


def run(
    task: Task = "text",
    size: Size = "small",
    workdir: str | Path = "runs/quickstart",
    *,
    steps: int | None = None,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> QuickstartReport | None:
    """Train on the built-in grammar, write, judge by parsing, and report.

    Args:
        task: "text" trains a Diffusion-LM on sentences, "seq2seq" a DiffuSeq from attributes to
            sentences.
        size: of the grammar.
        workdir: run directory, new or empty.
        steps: training steps; None is what five minutes on two cores allow.
        resume: continue an interrupted quickstart.
        say: where the report goes, line by line.

    Returns:
        The figures, which are also written to ``workdir/quickstart.json``; None where the training
        was stopped by a signal (its state is saved).

    Raises:
        UserError: see ``experiment.train``.
    """
    began = time.perf_counter()
    config = quickstart_config(task, size, steps=steps)
    result = train(config, workdir, resume=resume, report=ProgressReport())
    train_seconds = time.perf_counter() - began
    if result.fit.stopped_by is not None:
        return None
    judge = _judge_text if task == "text" else _judge_pairs
    texts, says_exactly = judge(result, size, say)
    grammar = load_grammar(size)
    known = _training_texts(result)
    different = set(texts)
    bound = _bound(result) if task == "text" else None
    entropy = grammar.entropy(0, ENTROPY_SENTENCES)
    report = QuickstartReport(
        task=task,
        size=size,
        num_samples=len(texts),
        in_language=float(np.mean([grammar.accepts(text) for text in texts])),
        says_exactly=says_exactly,
        distinct=len(different),
        new=float(np.mean([text not in known for text in different])),
        bound=bound and bound.nats_per_sentence,
        bound_error=bound and bound.nats_per_sentence_error,
        entropy=entropy.nats_per_sentence,
        entropy_error=entropy.se_sentence,
        train_seconds=train_seconds,
        total_seconds=time.perf_counter() - began,
        steps=result.fit.step,
        waiting=result.fit.waited_seconds / max(result.fit.seconds, 1e-9),
    )
    path = Workdir(workdir).path / "quickstart.json"
    path.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    for line in _lines(report, str(workdir)):
        say(line)
    return report


def _judge_text(
    result: TrainResult, size: Size, say: Callable[[str], None]
) -> tuple[list[str], None]:
    texts = result.generator.sample(NUM_SAMPLES, batch_size=250)
    grammar = load_grammar(size)
    say("\nWhat it writes (+ is a sentence of the language, - is not):")
    for text in texts[:NUM_SHOWN]:
        say(f"  {'+' if grammar.accepts(text) else '-'} {text}")
    return texts, None


def _judge_pairs(
    result: TrainResult, size: Size, say: Callable[[str], None]
) -> tuple[list[str], float]:
    grammar = load_grammar(size)
    pairs = grammar.data_to_text(1, NUM_SAMPLES, "test")
    written = result.generator.generate((pair.src for pair in pairs), batch_size=250)
    texts = [generation.candidates[0] for generation in written]
    exact = [grammar.says(text, pair.attributes) for text, pair in zip(texts, pairs)]
    say("\nWhat it writes (+ says exactly what was asked, - does not):")
    for pair, text, right in list(zip(pairs, texts, exact))[:NUM_SHOWN]:
        say(f"  {pair.src}\n  {'+' if right else '-'} {text}")
    return texts, float(np.mean(exact))


def _training_texts(result: TrainResult) -> set[str]:
    """Return every sentence that was there to learn from."""
    store, tokenizer = result.data.train, result.data.tokenizer
    rows = store.rows(np.arange(len(store)))
    return {tokenizer.decode(i[m]) for i, m in zip(rows["input_ids"], rows["noise_mask"])}


def _bound(result: TrainResult) -> LikelihoodSummary:
    """Return the variational bound on validation sentences."""
    store = result.data.validation
    assert store is not None, "the grammar always has a validation split"
    program = Program.build(result.config)
    return corpus_bound(program, result.generator.params, store, result.data.tokenizer)


def _lines(report: QuickstartReport, workdir: str) -> Sequence[str]:
    """Return the report as a reader wants it."""
    share, n = report.in_language, report.num_samples
    error = np.sqrt(share * (1 - share) / n)
    lines = [
        "",
        f"Of {n} samples, {share:.1%} (+- {error:.1%}) are sentences of the language",
        f"  {report.distinct} are distinct, {report.new:.1%} of those not in the training corpus",
    ]
    if report.says_exactly is not None:
        lines.append(f"  {report.says_exactly:.1%} say exactly the attributes asked for")
    if report.bound is not None:
        lines.append(
            f"Likelihood bound {report.bound:.2f} +- {report.bound_error:.2f} nats per sentence; "
            f"entropy of the source {report.entropy:.2f} +- {report.entropy_error:.2f}"
        )
    lines += [
        f"{report.steps} steps, {report.train_seconds:.0f} s of training "
        f"({report.waiting:.1%} of it waiting for data), {report.total_seconds:.0f} s in all",
        "",
        f"Write more:  diffusion-jax sample {workdir} -n 20"
        if report.task == "text"
        else f"Write more:  diffusion-jax generate {workdir} --input attributes.txt",
    ]
    return lines
