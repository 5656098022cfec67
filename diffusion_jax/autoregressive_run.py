"""The autoregressive Transformer as its users see it: train it, let it judge, let it write."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.config import AutoregressiveRunConfig
from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.text_scores import TextScore
from diffusion_jax.experiment import open_corpora
from diffusion_jax.models.autoregressive import (
    Autoregressive,
    autoregressive_transformer,
    row_keys,
    write,
)
from diffusion_jax.scale.agreement import check_same_data, together
from diffusion_jax.scale.mesh import check_batch_size, make_mesh
from diffusion_jax.text.buckets import bucket_ends
from diffusion_jax.text.loader import filled_batches
from diffusion_jax.text.packing import Row, pack_pair, pack_source, pack_text, unpack_target
from diffusion_jax.text.prefixes import with_prefix
from diffusion_jax.text.rows import Packing
from diffusion_jax.text.store import TokenStore, build_store
from diffusion_jax.text.tokenizers import Tokenizer, build_tokenizer
from diffusion_jax.timesteps import uniform
from diffusion_jax.train.events import Every
from diffusion_jax.train.hooks import Preview
from diffusion_jax.train.loop import FitResult
from diffusion_jax.train.metrics import require_tensorboard
from diffusion_jax.train.next_token_loss import make_next_token_loss, scored_positions
from diffusion_jax.train.progress import ProgressReport
from diffusion_jax.train.state import TrainState
from diffusion_jax.training_run import (
    Outputs,
    averaged_params,
    configured_optimizer,
    make_learner,
    place_learner,
    run_training,
    start_run,
    validation_hooks,
)
from diffusion_jax.types import Params
from diffusion_jax.workdir import Workdir

NUM_PREVIEWS = 4
BATCH_SIZE = 64


@dataclass(frozen=True)
class TrainedAutoregressive:
    """A trained autoregressive Transformer.

    Attributes:
        config: how it was trained.
        tokenizer: text to ids.
        model: the network.
        params: its parameters.
    """

    config: AutoregressiveRunConfig
    tokenizer: Tokenizer
    model: Autoregressive
    params: Params

    @classmethod
    def load(cls, path: str | Path, *, weights: str = "ema") -> "TrainedAutoregressive":
        """Read a directory that ``train-ar`` wrote.

        Raises:
            UserError: it holds no such model, or is damaged.
        """
        directory = Workdir(path)
        config = directory.read_config(AutoregressiveRunConfig)
        return cls(
            config,
            directory.read_tokenizer(),
            autoregressive_transformer(config.model),
            directory.read_params(config, weights=weights),
        )

    def score(
        self,
        texts: Sequence[str],
        sources: Sequence[str] | None = None,
        *,
        truncate: bool = False,
    ) -> list[TextScore]:
        """Return how likely each text is, given its source where the model has one.

        Args:
            texts: what is scored.
            sources: one for each text, of a model of pairs or controls.
            truncate: score a single text that does not fit the rows as far as it does, without its
                end; else it is refused.

        Raises:
            UserError: a text does not fit the rows, sources are missing or not wanted, or texts
                after sources are to be cut.
        """
        if (sources is not None) != self.config.paired:
            wanted = "needs" if self.config.paired else "takes no"
            raise UserError(f"this model {wanted} sources (or controls) beside the texts")
        if sources is not None and len(sources) != len(texts):
            raise UserError(f"there are {len(sources)} sources for {len(texts)} texts")
        if truncate and sources is not None:
            raise UserError("texts after sources are not cut: leave truncate out, or shorten them")
        rows = []
        for number, text in enumerate(texts):
            try:
                source = None if sources is None else sources[number]
                rows.append(self._pack(text, source, truncate))
            except UserError as error:
                raise UserError(f"text {number + 1}: {error}") from None
        nats = self._nats(rows)
        scores = []
        for text, value in zip(texts, nats):
            # All that fits behind START was scored.
            ids = self.tokenizer.encode(text)[: self.config.data.length - 1]
            scores.append(TextScore(float(value), len(ids), ids.count(self.tokenizer.unk_id)))
        return scores

    def sample(self, count: int, *, temperature: float = 1.0, seed: int = 0) -> list[str]:
        """Write texts without a source; text i depends on the seed and i alone.

        Args:
            count: how many.
            temperature: divides the logits; 0 takes the most likely token everywhere.
            seed: of the draws.

        Raises:
            UserError: the model needs sources, or a number is out of range.
        """
        if self.config.paired:
            raise UserError("this model writes targets for sources (or controls); use generate")
        if count < 1:
            raise UserError(f"count is {count}; ask for at least 1")
        length = self.config.data.length
        ids = np.full((count, length), self.tokenizer.pad_id, np.int32)
        ids[:, 0] = self.tokenizer.start_id
        rows = self._write(ids, np.ones(count, np.int32), temperature, seed)
        return [self.tokenizer.decode(row) for row in rows]

    def generate(
        self, sources: Iterable[str], *, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """Write one target for each source (or control).

        Raises:
            UserError: the model takes no sources, or one is too long.
        """
        if not self.config.paired:
            raise UserError("this model writes texts without a source; use sample")
        length, packed = self.config.data.length, []
        for number, source in enumerate(sources):
            try:
                packed.append(pack_source(self.tokenizer.encode(source), length, self.tokenizer))
            except UserError as error:
                raise UserError(f"source {number + 1}: {error}") from None
        if not packed:
            return []
        ids = np.stack([row.input_ids for row in packed])
        masks = np.stack([row.noise_mask for row in packed])
        # START of the target is given with the source.
        given = np.sum(~masks, axis=1).astype(np.int32)
        ids[np.arange(len(ids)), given] = self.tokenizer.start_id
        rows = self._write(ids, given + 1, temperature, seed)
        return [
            self.tokenizer.decode(unpack_target(row, mask, self.tokenizer))
            for row, mask in zip(rows, masks)
        ]

    def _pack(self, text: str, source: str | None, truncate: bool) -> Row:
        ids, length = self.tokenizer.encode(text), self.config.data.length
        if source is None:
            on_long = "truncate" if truncate else "error"
            return pack_text(ids, length, self.tokenizer, on_long=on_long)
        return pack_pair(self.tokenizer.encode(source), ids, length, self.tokenizer)

    def _nats(self, rows: Sequence[Row]) -> np.ndarray:
        """Return nats of each row [N], in batches of one size."""

        @jax.jit
        def nats(params: Params, input_ids: jax.Array, noise_mask: jax.Array) -> jax.Array:
            nll = self.model.nll(params, input_ids)
            counted = scored_positions(input_ids, noise_mask, self.tokenizer.pad_id)
            return jnp.sum(jnp.where(counted, nll, 0.0), axis=-1)

        found = []
        for index in _batches(len(rows)):
            ids = np.stack([rows[i].input_ids for i in index])
            masks = np.stack([rows[i].noise_mask for i in index])
            found.append(np.asarray(nats(self.params, ids, masks)))
        return np.concatenate(found)[: len(rows)] if found else np.zeros(0)

    def _write(
        self, ids: np.ndarray, given: np.ndarray, temperature: float, seed: int
    ) -> np.ndarray:
        """Return rows int32 [N, L], written in batches of one size."""
        if temperature < 0:
            raise UserError(f"temperature is {temperature}; it must be 0 (greedy) or more")
        if not 0 <= seed < 2**32:
            raise UserError(f"seed is {seed}; it must be between 0 and 2**32 - 1")

        @jax.jit
        def run(params: Params, keys: jax.Array, ids: jax.Array, given: jax.Array) -> jax.Array:
            return write(
                self.model,
                params,
                keys,
                ids,
                given,
                temperature=temperature,
                end_id=self.tokenizer.end_id,
                pad_id=self.tokenizer.pad_id,
            )

        all_keys = row_keys(seed, len(ids))
        written = [
            np.asarray(run(self.params, all_keys[index], ids[index], given[index]))
            for index in _batches(len(ids))
        ]
        return np.concatenate(written)[: len(ids)]


def _batches(count: int) -> list[np.ndarray]:
    """Return which rows each batch holds; fewer rows than a batch make a smaller one."""
    return filled_batches(count, max(1, min(count, BATCH_SIZE)))


class AutoregressiveResult(NamedTuple):
    """What a training leaves in memory.

    Attributes:
        trained: the model with averaged parameters.
        fit: how the run ended.
    """

    trained: TrainedAutoregressive
    fit: FitResult


def train_autoregressive(
    config: AutoregressiveRunConfig,
    workdir: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    resume: bool = False,
    report: ProgressReport | None = None,
) -> AutoregressiveResult:
    """Train, or go on training, an autoregressive Transformer; keep everything in ``workdir``.

    Args:
        config: the run.
        workdir: its directory; new or empty, unless ``resume``.
        tokenizer: of another run, to be used here too; None makes one as the configuration says.
        resume: continue from the newest intact checkpoint; starts where there is none.
        report: where progress goes; default standard error.

    Raises:
        UserError: anything wrong with data, configuration or directory, before any compilation.
    """
    directory = Workdir(workdir)
    with contextlib.ExitStack() as held:
        with together():
            going_on = resume and directory.is_run()
            if going_on:
                tokenizer = directory.read_tokenizer()
            else:
                directory.check_unused()
            mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
            check_batch_size(mesh, config.train.batch_size, config.train.microbatches)
            tokenizer, rows, held_out = _open(config, tokenizer)
            sizes = {"vocab_size": tokenizer.vocab_size, "max_length": config.data.length}
            config = replace(config, model=replace(config.model, **sizes))
            if going_on:
                directory.check_same_run(config)
                directory.check_same_data(rows.checksum)
            if config.train.tensorboard:
                require_tensorboard()
            model = autoregressive_transformer(config.model)
            learner = make_learner(
                model.init,
                model.logical_axes,
                make_next_token_loss(model, tokenizer.pad_id),
                uniform(1),
                1,
                configured_optimizer(config.optim, config.train.steps),
                config.train,
            )
            placed = place_learner(learner, mesh)
            bucket, batch_size = config.data.length_bucket, config.train.batch_size
            ends = bucket_ends(rows, tokenizer.pad_id, bucket, batch_size)
        check_same_data([rows, held_out])
        start_run(directory, config, tokenizer, held, going_on=going_on, checksum=rows.checksum)
        report = report or ProgressReport()
        report.print(config.to_json().rstrip())
        report.print(f"training on {rows.report}")
        trained = TrainedAutoregressive(config, tokenizer, model, {})
        result = run_training(
            directory,
            placed,
            rows,
            tokenizer=tokenizer,
            report=report,
            state_hooks=lambda outputs: [
                *validation_hooks(placed, held_out, outputs),
                *_previews(trained, rows, outputs),
            ],
            dtype=config.model.dtype,
            ends=ends,
        )
    params = averaged_params(config.train, result.state)
    return AutoregressiveResult(replace(trained, params=params), result)


def _open(
    config: AutoregressiveRunConfig, tokenizer: Tokenizer | None
) -> tuple[Tokenizer, TokenStore, TokenStore | None]:
    """Open the corpora, make the tokenizer where none is given, and pack the rows."""
    corpus, validation = open_corpora(config.data)
    corpus = with_prefix(corpus, config.prefix)
    options = config.tokenizer
    tokenizer = tokenizer or build_tokenizer(
        options.kind,
        corpus.texts(),
        threshold=options.min_count,
        vocab_size=options.vocab_size,
        vocab_file=options.vocab_file,
        lowercase=options.lowercase,
    )
    packing = Packing(config.data.length, config.data.packing, config.data.on_long)
    cache = config.data.cache or None
    held_out = validation and with_prefix(validation, config.prefix)
    return (
        tokenizer,
        build_store(corpus, tokenizer, packing, cache_dir=cache),
        held_out and build_store(held_out, tokenizer, packing, cache_dir=cache),
    )


def _previews(trained: TrainedAutoregressive, rows: TokenStore, outputs: Outputs) -> list[Every]:
    every = trained.config.train.preview_every
    if every == 0:
        return []
    first = rows.rows(np.arange(min(NUM_PREVIEWS, len(rows))))
    sources = [
        trained.tokenizer.decode(ids[~mask])
        for ids, mask in zip(first["input_ids"], first["noise_mask"])
    ]

    def preview(state: TrainState) -> list[str]:
        params = jax.device_get(averaged_params(trained.config.train, state))
        writer = replace(trained, params=params)
        if trained.config.paired:
            written = writer.generate(sources)
            texts = [f"{source} => {text}" for source, text in zip(sources, written)]
        else:
            texts = writer.sample(NUM_PREVIEWS)
        outputs.samples.write(int(state.step), {"samples": texts})
        return texts

    show: Callable[[str], None] = outputs.report.print
    return [Every(every, Preview(preview, say=show))]
