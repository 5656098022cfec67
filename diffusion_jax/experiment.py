"""Run an experiment from its configuration: text files in, a run directory out.

The one place where corpus, tokenizer, program, mesh and checkpoints meet.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from diffusion_jax.chain import example_keys
from diffusion_jax.config import DataConfig, ExperimentConfig
from diffusion_jax.errors import UserError
from diffusion_jax.generate import Generator
from diffusion_jax.program import Program
from diffusion_jax.scale.agreement import check_same_data, check_same_start, together
from diffusion_jax.scale.mesh import check_batch_size, make_mesh
from diffusion_jax.text.buckets import bucket_ends
from diffusion_jax.text.corpora import open_corpus
from diffusion_jax.text.example import Corpus
from diffusion_jax.text.packing import Row
from diffusion_jax.text.rows import Packing
from diffusion_jax.text.store import TokenStore, build_store
from diffusion_jax.text.targets import RowShape
from diffusion_jax.text.tokenizers import Tokenizer, build_tokenizer
from diffusion_jax.train.events import Every
from diffusion_jax.train.hooks import Preview
from diffusion_jax.train.loop import FitResult
from diffusion_jax.train.metrics import JsonLines, require_tensorboard
from diffusion_jax.train.progress import ProgressReport
from diffusion_jax.train.state import TrainState
from diffusion_jax.training_run import (
    averaged_params,
    place_learner,
    run_training,
    start_run,
    validation_hooks,
)
from diffusion_jax.types import Params
from diffusion_jax.workdir import Workdir

NUM_PREVIEWS = 4
FILLED_IN = ("model.vocab_size", "model.pad_id")
"""Fields that ``complete`` fills in from the data."""
_WITH_SPLITS = ("grammar:", "tfds:")


@dataclass(frozen=True)
class Data:
    """The text side of an experiment, ready to be read.

    Attributes:
        tokenizer: text to ids.
        train: rows to learn from.
        validation: rows that are never learned from, or None.
    """

    tokenizer: Tokenizer
    train: TokenStore
    validation: TokenStore | None


def open_data(config: ExperimentConfig, tokenizer: Tokenizer | None = None) -> Data:
    """Open the corpora, learn the tokenizer where none is given, and pack the rows.

    Raises:
        UserError: anything wrong with the files; found here, before any compilation.
    """
    corpus = _open(config.data, config.data.corpus, "train", config.data.size)
    tokenizer = tokenizer or _build_tokenizer(config, corpus)
    return Data(
        tokenizer,
        _build_store(config.data, corpus, tokenizer),
        open_validation(config, tokenizer),
    )


def open_validation(config: ExperimentConfig, tokenizer: Tokenizer) -> TokenStore | None:
    """Pack the validation corpus, where there is one.

    Raises:
        UserError: anything wrong with the file.
    """
    corpus = _open_validation_corpus(config.data)
    return corpus and _build_store(config.data, corpus, tokenizer)


def open_corpora(data: DataConfig) -> tuple[Corpus, Corpus | None]:
    """Open the training corpus, and the validation corpus where there is one.

    Raises:
        UserError: anything wrong with the files.
    """
    return _open(data, data.corpus, "train", data.size), _open_validation_corpus(data)


def _build_store(data: DataConfig, corpus: Corpus, tokenizer: Tokenizer) -> TokenStore:
    packing = Packing(data.length, data.packing, data.on_long)
    return build_store(corpus, tokenizer, packing, cache_dir=data.cache or None)


def _open(
    data: DataConfig, spec: str, split: str, size: int, *, only_fitting: bool = False
) -> Corpus:
    names = ("src", "trg") if data.task == "pair" else ("text",)
    return open_corpus(
        spec,
        split=split,
        format=data.format,
        task=data.task,
        columns=dict(zip(names, data.columns)) or None,
        where=dict(condition.split("=", 1) for condition in data.where) or None,
        keep_newline=data.keep_newline,
        size=size or None,
        data_dir=data.data_dir or None,
        only_fitting=only_fitting,
    )


def has_validation(data: DataConfig) -> bool:
    """Return whether a run has texts to validate on: a corpus that was named, or a split."""
    has_splits = data.corpus.startswith(_WITH_SPLITS)
    return data.validation_size != 0 and bool(data.validation or has_splits)


def _open_validation_corpus(data: DataConfig) -> Corpus | None:
    return open_validation_corpus(data, data.validation_size) if has_validation(data) else None


def open_validation_corpus(data: DataConfig, size: int) -> Corpus | None:
    """Open what a run validates on: the corpus that it names, or a split; None without either.

    Args:
        data: of the run.
        size: read at most this many examples; 0 means all.

    Raises:
        UserError: anything wrong with the file.
    """
    if not data.validation:
        splits = data.corpus.startswith(_WITH_SPLITS)
        return _open(data, data.corpus, "validation", size) if splits else None
    if Path(data.validation).suffix != Path(data.corpus).suffix:
        # A format that was named is that of the training corpus.
        data = replace(data, format="auto")
    return _open(data, data.validation, "validation", size, only_fitting=True)


def _build_tokenizer(config: ExperimentConfig, corpus: Corpus) -> Tokenizer:
    options = config.tokenizer
    return build_tokenizer(
        options.kind,
        corpus.texts(),
        threshold=options.min_count,
        vocab_size=options.vocab_size,
        vocab_file=options.vocab_file,
        lowercase=options.lowercase,
    )


def complete(config: ExperimentConfig, tokenizer: Tokenizer) -> ExperimentConfig:
    """Fill in what only the data tells: the vocabulary size and the longest row.

    Raises:
        UserError: the configuration says otherwise.
    """
    model = config.model
    if model.vocab_size not in (None, tokenizer.vocab_size):
        raise UserError(
            f"model.vocab_size is {model.vocab_size}, but the tokenizer has "
            f"{tokenizer.vocab_size} tokens; leave it unset"
        )
    if model.max_length < config.data.length:
        raise UserError(
            f"data.length is {config.data.length}, but the model has {model.max_length} positions; "
            f"raise --model.max-length"
        )
    pad_id = tokenizer.pad_id if config.needs_pad_id else None
    if model.pad_id not in (None, pad_id):
        raise UserError(
            f"model.pad_id is {model.pad_id}, but padding is {pad_id} in the tokenizer; leave it "
            "unset"
        )
    model = replace(model, vocab_size=tokenizer.vocab_size, pad_id=pad_id)
    return replace(config, model=model)


class TrainResult(NamedTuple):
    """What a run leaves in memory; everything else is in its directory.

    Attributes:
        config: the complete configuration.
        data: tokenizer and rows.
        fit: the last state and how the run ended.
        generator: writes text with the averaged parameters of the last state.
    """

    config: ExperimentConfig
    data: Data
    fit: FitResult
    generator: Generator


def train(
    config: ExperimentConfig,
    workdir: str | Path,
    *,
    resume: bool = False,
    report: ProgressReport | None = None,
) -> TrainResult:
    """Train, or go on training, and keep everything in ``workdir``.

    Args:
        config: the experiment.
        workdir: run directory; new or empty, unless ``resume``.
        resume: continue the run in ``workdir`` from its newest intact checkpoint; every later loss
            is bit-identical to that of a run that was never stopped. Starts the run where there is
            none.
        report: where progress goes; default standard error.

    Raises:
        UserError: anything wrong with data, configuration or directory, before any compilation.
        NonFiniteLossError: the loss is not finite; the directory keeps its last good checkpoint.
    """
    directory = Workdir(workdir)
    check_same_start(config, resume)
    with contextlib.ExitStack() as held:
        with together():
            going_on = resume and directory.is_run()
            if not going_on:
                directory.check_unused()
            mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
            check_batch_size(mesh, config.train.batch_size, config.train.microbatches)
            if going_on:
                # Before the corpus is opened, as that may be what differs.
                directory.check_same_run(config, unless_set=FILLED_IN)
            data = open_data(config, directory.read_tokenizer() if going_on else None)
            config = complete(config, data.tokenizer)
            if going_on:
                directory.check_same_run(config)
                directory.check_same_data(data.train.checksum)
            _check_installation(config)
            program = Program.build(config, mesh)
            placed = place_learner(program.learner(), mesh)
            ends = bucket_ends(
                data.train,
                data.tokenizer.pad_id,
                config.data.length_bucket,
                config.train.batch_size,
            )
        check_same_data([data.train, data.validation])
        # All that can be wrong with the input has been looked at: now the disk may change.
        start_run(
            directory,
            config,
            data.tokenizer,
            held,
            going_on=going_on,
            checksum=data.train.checksum,
        )
        report = report or ProgressReport()
        _describe(report, config, data, directory)
        generator_of = _generators(program, data.tokenizer)
        result = run_training(
            directory,
            placed,
            data.train,
            tokenizer=data.tokenizer,
            report=report,
            state_hooks=lambda outputs: [
                *validation_hooks(placed, data.validation, outputs),
                *_previews(config, data, generator_of, outputs.samples, report),
            ],
            dtype=config.model.dtype,
            ends=ends,
        )
    return TrainResult(config, data, result, generator_of(result.state))


def _generators(program: Program, tokenizer: Tokenizer) -> Callable[[TrainState], Generator]:
    """Return a function from a state to the generator that writes with its parameters.

    One compiled chain serves all states, unless its path depends on what was learned by then.
    """
    config = program.config
    fixed = None if program.moves else Generator.build(config, tokenizer, {})

    def generator_of(state: TrainState) -> Generator:
        params = sampled_params(config, state)
        if fixed is not None:
            return replace(fixed, params=params)
        # A clip that moves may leave fewer steps than were asked for; training goes on with these.
        left = program.chain_schedule(params, state.timestep_state).num_timesteps
        sample = replace(config.sample, steps=min(config.sample.steps, left))
        own = replace(config, sample=sample)
        return Generator.build(own, tokenizer, params, state.timestep_state)

    return generator_of


def _check_installation(config: ExperimentConfig) -> None:
    """Raise UserError where the configuration needs what this machine has not."""
    if config.train.tensorboard:
        require_tensorboard()
    if config.model.attention_impl == "cudnn" and jax.default_backend() != "gpu":
        raise UserError(
            'model.attention_impl is "cudnn", which needs an NVIDIA GPU, but JAX runs on '
            f'{jax.default_backend()!r}; use "xla"'
        )


def sampled_params(config: ExperimentConfig, state: TrainState) -> Params:
    """Return the parameters to sample from: the first average, or the raw ones without any."""
    return averaged_params(config.train, state)


def _describe(
    report: ProgressReport, config: ExperimentConfig, data: Data, directory: Workdir
) -> None:
    report.print(config.to_json().rstrip())
    report.print(f"training on {data.train.report}")
    if data.validation is not None:
        report.print(f"validating on {data.validation.report}")
    report.print(f"writing to {directory.path}")


def _previews(
    config: ExperimentConfig,
    data: Data,
    generator_of: Callable[[TrainState], Generator],
    samples: JsonLines,
    report: ProgressReport,
) -> list[Every]:
    if config.train.preview_every == 0:
        return []

    def preview(state: TrainState) -> list[str]:
        writer = generator_of(state)
        if config.data.task == "text":
            texts = writer.sample(NUM_PREVIEWS)
        else:
            texts = _targets_of_first_rows(writer, data.validation or data.train, NUM_PREVIEWS)
        samples.write(int(state.step), {"samples": texts})
        return texts

    return [Every(config.train.preview_every, Preview(preview, say=report.print))]


def _targets_of_first_rows(writer: Generator, store: TokenStore, count: int) -> list[str]:
    """Write targets for the sources of the first rows, as they lie there: "source => target"."""
    words, count = writer.tokenizer, min(count, len(store))
    arrays = store.rows(np.arange(count))
    packed = [
        Row(np.where(mask, words.pad_id, ids), mask)
        for ids, mask in zip(arrays["input_ids"], arrays["noise_mask"])
    ]
    shape = RowShape(writer.config.data.length, length_beam=1, num_candidates=1, max_target=0)
    rows = writer.rows_to_write(packed, shape)
    keys = example_keys(0, range(count))
    targets = writer.write_rows(rows, keys, writer.trained_bucket() or None, count)
    sources = (words.decode(row.input_ids[~row.noise_mask]) for row in packed)
    return [f"{source} => {target}" for source, target in zip(sources, targets)]
