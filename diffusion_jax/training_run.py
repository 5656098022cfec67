"""The training of any network in its run directory: state, files, checkpoints, the loop.

What is learned is a ``Learner``, a record of pure functions; everything here is the same for the
denoiser, the classifiers and the autoregressive Transformer.
"""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from diffusion_jax import keys
from diffusion_jax.config import OptimConfig, TrainConfig
from diffusion_jax.errors import UserError
from diffusion_jax.scale.agreement import together
from diffusion_jax.scale.compilation import compilation_cache_in
from diffusion_jax.scale.flops import traced_flops
from diffusion_jax.scale.mesh import batch_block, place_batch
from diffusion_jax.scale.peak import matmul_peak
from diffusion_jax.scale.sharding import (
    abstract_with_shardings,
    create_state,
    jit_train_step,
    param_shardings,
    state_shardings,
)
from diffusion_jax.text.buckets import BucketLoader
from diffusion_jax.text.loader import CheckedRowTable, EvalLoader, Loader, RowTable
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.timesteps import TimestepSampler
from diffusion_jax.train.events import Every
from diffusion_jax.train.hooks import Validate
from diffusion_jax.train.loop import FitResult, fit
from diffusion_jax.train.metrics import JsonLines, MetricWriter, TensorBoard, WriteMetrics
from diffusion_jax.train.optimizer import Optimizer, make_optimizer
from diffusion_jax.train.profiling import Profile
from diffusion_jax.train.progress import ProgressReport
from diffusion_jax.train.state import TrainState, ema_name, init_state
from diffusion_jax.train.step import LossFn, TrainStep, make_train_step
from diffusion_jax.train.summary import run_summary, show_summary
from diffusion_jax.train.validation import make_validation
from diffusion_jax.types import Params
from diffusion_jax.workdir import AnyConfig, Workdir, data_mark


class Learner(NamedTuple):
    """What training needs to know of a network.

    Attributes:
        make_state: typed key -> the state at step 0.
        train_step: the pure step.
        loss: loss terms of a batch.
        num_timesteps: T.
        logical_axes: () -> names of the axes of the parameters.
        optimizer: AdamW.
        options: how long, how large, how often.
        frozen: parameters that the loss uses and does not learn, and the names of their axes.
    """

    make_state: Callable[[jax.Array], TrainState]
    train_step: TrainStep
    loss: LossFn
    num_timesteps: int
    logical_axes: Callable[[], Any]
    optimizer: Optimizer
    options: TrainConfig
    frozen: "Frozen | None" = None


class Frozen(NamedTuple):
    """Parameters of another network, which a loss finds in ``batch[FROZEN]``.

    Attributes:
        params: arrays, on this process.
        logical_axes: the names of their axes, in the same structure.
    """

    params: Params
    logical_axes: Any


def make_learner(
    init: Callable[[jax.Array], Params],
    logical_axes: Callable[[], Any],
    loss: LossFn,
    timestep_sampler: TimestepSampler,
    num_timesteps: int,
    optimizer: Optimizer,
    options: TrainConfig,
    frozen: Frozen | None = None,
) -> Learner:
    """Compose a learner of a network's functions and its configuration."""

    def make_state(key: jax.Array) -> TrainState:
        return init_state(
            init(key),
            optimizer,
            ema_rates=options.ema_rates,
            timestep_state=timestep_sampler.init(),
        )

    step = make_train_step(
        loss,
        optimizer,
        timestep_sampler,
        num_timesteps=num_timesteps,
        num_microbatches=options.microbatches,
    )
    return Learner(make_state, step, loss, num_timesteps, logical_axes, optimizer, options, frozen)


def configured_optimizer(
    optim: OptimConfig, steps: int, rate_multipliers: Params | None = None
) -> Optimizer:
    """Return AdamW as the configuration describes it.

    Args:
        optim: the configuration.
        steps: of the run.
        rate_multipliers: what ``optim.base_width`` asks for, see ``train.transfer``.

    Raises:
        UserError: a base width is asked for where the network has no such transfer.
    """
    if optim.base_width and rate_multipliers is None:
        raise UserError(
            f"optim.base_width is {optim.base_width}, but this network's learning rate is not "
            "transferred across widths; leave it at 0"
        )
    return make_optimizer(
        optim.learning_rate,
        steps,
        warmup_steps=optim.warmup_steps,
        schedule=optim.decay,
        weight_decay=optim.weight_decay,
        betas=optim.betas,
        eps=optim.eps,
        clip_norm=optim.clip_norm or None,
        rate_multipliers=rate_multipliers,
    )


def averaged_params(options: TrainConfig, state: TrainState) -> Params:
    """Return the parameters to use: the first average, or the raw ones without any."""
    rates = options.ema_rates
    return state.ema[ema_name(rates[0])] if rates else state.params


class Placed(NamedTuple):
    """A learner on the devices.

    Attributes:
        learner: what is learned.
        mesh: the devices.
        abstract: shapes and types of the state.
        shardings: where each of its arrays lives.
        frozen: the learner's frozen parameters, on the devices.
    """

    learner: Learner
    mesh: Mesh
    abstract: TrainState
    shardings: Any
    frozen: Params | None = None

    def place(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Put this process's rows of a batch on its devices."""
        return place_batch(self.mesh, batch)


def place_learner(learner: Learner, mesh: Mesh) -> Placed:
    """Decide where the state lives, before anything is written or compiled.

    Raises:
        UserError: the mesh does not fit the network, or cuts across processes.
    """
    batch_block(mesh)
    abstract = jax.eval_shape(learner.make_state, jax.random.key(0))
    shardings = state_shardings(mesh, abstract, learner.logical_axes(), learner.optimizer.init)
    frozen = None
    if learner.frozen is not None:
        where = param_shardings(mesh, *learner.frozen)
        # From the host, the same on every process, whatever device they were read to.
        params = jax.device_get(learner.frozen.params)
        frozen = jax.jit(lambda params: params, out_shardings=where)(params)
    return Placed(learner, mesh, abstract, shardings, frozen)


def start_run(
    directory: Workdir,
    config: AnyConfig,
    tokenizer: Tokenizer,
    held: contextlib.ExitStack,
    *,
    going_on: bool,
    checksum: int,
    labels: Mapping[str, Any] | None = None,
) -> None:
    """Keep other runs out of the directory and write what a run begins with.

    One process does so for all of them. The configuration goes last.

    Args:
        directory: of the run.
        config: complete.
        tokenizer: text to ids.
        held: keeps the lock until the run has ended.
        going_on: whether the run has begun before.
        checksum: of the rows that are learned from.
        labels: of a classifier, as JSON values.
    """
    with together():
        if jax.process_index() == 0:
            held.enter_context(directory.lock())
            if going_on:
                directory.write_config(config)
            else:
                if labels is not None:
                    directory.write_labels(labels)
                directory.create(config, tokenizer, checksum=checksum)
    with together():
        directory.check_shared()


class Outputs(NamedTuple):
    """Where a run writes.

    Attributes:
        writers: of numbers.
        samples: of texts.
        report: to people.
    """

    writers: list[MetricWriter]
    samples: JsonLines
    report: ProgressReport


def run_training(
    directory: Workdir,
    placed: Placed,
    table: CheckedRowTable,
    *,
    tokenizer: Tokenizer,
    report: ProgressReport,
    state_hooks: Callable[[Outputs], list[Every]],
    dtype: str,
    ends: np.ndarray | None = None,
) -> FitResult:
    """Train, or go on from the newest intact checkpoint, and write everything to the directory.

    Args:
        directory: of the run; its configuration has been written.
        placed: what is learned, and where.
        table: rows to learn from.
        tokenizer: of the rows; its fingerprint and their checksum are saved with every checkpoint.
        report: where progress goes.
        state_hooks: makes the hooks that look at the state now and then.
        dtype: of the network's products; its speed is held against that of the machine's.
        ends: how long each row is, for batches of rows of about one length (``text.buckets``).

    Returns:
        The last state and how the run ended.

    Raises:
        NonFiniteLossError: the loss is not finite; the directory keeps its last good checkpoint.
    """
    options = placed.learner.options
    root_key = jax.random.key(options.seed)
    block, num_blocks = batch_block(placed.mesh)
    make_loader = Loader if ends is None else partial(BucketLoader, ends=ends)
    loader = make_loader(
        table,
        options.batch_size,
        options.seed,
        process_index=block,
        process_count=num_blocks,
    )
    with (
        directory.checkpoints(keep_last=options.keep_checkpoints) as store,
        contextlib.ExitStack() as files,
    ):
        if options.compilation_cache:
            files.enter_context(compilation_cache_in(directory.compilation_dir))
        if store.steps():
            template = abstract_with_shardings(placed.abstract, placed.shardings)
            state = store.restore_latest(template).state
            report.print(f"going on from step {int(state.step)}")
        else:
            if directory.metrics_file.exists():
                report.print("there is no checkpoint yet: starting from the beginning")
            key = keys.stream(root_key, "init")
            state = create_state(placed.learner.make_state, key, placed.shardings)
        step = int(state.step)
        writers: list[MetricWriter] = [
            files.enter_context(JsonLines(directory.metrics_file, resume_step=step))
        ]
        if options.tensorboard:
            folder = directory.path / "tensorboard"
            writers.append(files.enter_context(TensorBoard(folder, resume_step=step)))
        samples = files.enter_context(JsonLines(directory.samples_file, resume_step=step))
        profile = Profile(directory.profile_dir, steps=options.profile_steps, first_step=step + 1)
        train_step = jit_train_step(
            placed.learner.train_step, placed.mesh, placed.shardings, placed.frozen
        )
        # Before the memory is full.
        peak = matmul_peak(dtype)
        result = fit(
            state,
            train_step,
            loader.batch_at,
            root_key=root_key,
            total_steps=options.steps,
            place=placed.place,
            store=store,
            checkpoint_every=options.checkpoint_every,
            metadata={
                "tokenizer": tokenizer.fingerprint(),
                "data": data_mark(table.checksum),
            },
            hooks=[
                files.enter_context(report),
                WriteMetrics(*writers, every=options.log_every),
                files.enter_context(profile),
            ],
            state_hooks=state_hooks(Outputs(writers, samples, report)),
        )
        if result.steps > 0:
            flops = sum(
                times * traced_flops(train_step, placed.abstract, batch, root_key)
                for batch, times in result.batches
            )
            summary = run_summary(
                result.spent,
                steps=result.steps,
                tokens=result.tokens,
                flops=flops,
                peak_flops_per_second=peak,
            )
            timings = files.enter_context(JsonLines(directory.timings_file, resume_step=step))
            timings.write(result.step, summary)
            show_summary(summary, report.print)
        return result


def validation_hooks(placed: Placed, table: RowTable | None, outputs: Outputs) -> list[Every]:
    """Return the hook that measures the loss on held-out rows, where there are any."""
    learner = placed.learner
    if table is None or learner.options.validate_every == 0:
        return []
    block, num_blocks = batch_block(placed.mesh)
    batches = EvalLoader(
        table,
        learner.options.batch_size,
        process_index=block,
        process_count=num_blocks,
    )
    validate = make_validation(
        learner.loss,
        batches,
        num_timesteps=learner.num_timesteps,
        place=placed.place,
        frozen=placed.frozen,
    )
    hook = Validate(
        lambda state: validate(averaged_params(learner.options, state)),
        *outputs.writers,
        say=outputs.report.print,
    )
    return [Every(learner.options.validate_every, hook)]
