"""From a checkpoint to text: unconditional samples and sequence to sequence, one compiled program.

Both tasks are the same reverse chain. What differs is the row that goes in: a row of padding whose
positions are all generated, or a packed source followed by positions to generate (the noise mask).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from diffusion_jax.chain import Reverse, example_keys, make_reverse, run_batches
from diffusion_jax.config import ExperimentConfig, SampleConfig
from diffusion_jax.errors import UserError
from diffusion_jax.program import Program
from diffusion_jax.scale.mesh import make_mesh
from diffusion_jax.schedules import NoiseSchedule
from diffusion_jax.text.packing import Row, pack_source, unpack_target
from diffusion_jax.text.targets import MIN_TARGET, RowShape, row_end
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.types import Params
from diffusion_jax.workdir import Workdir, params_digest

MAX_SAMPLES = 2**32
"""Texts of one seed: the noise of each is drawn by its index, an unsigned 32-bit number."""
WINDOW = 32
"""Batches that are sorted by length together: each length fills its last one up with idle rows."""


class Generation(NamedTuple):
    """What was written for one source.

    Attributes:
        source: the source line.
        candidates: C texts, in the order of their seeds.
    """

    source: str
    candidates: list[str]


@dataclass(frozen=True)
class Generator:
    """A trained model, ready to write.

    Attributes:
        config: the run's configuration; ``config.sample`` says how to sample.
        tokenizer: ids to text and back.
        params: parameters of the denoiser.
        reverse: the compiled chain, shared by generators that differ only in their parameters.
        schedule: what chains run on, see ``Program.chain_schedule``.
        length_log_probs: the compiled length head, see ``Model.predict_length``; None without one.
    """

    config: ExperimentConfig
    tokenizer: Tokenizer
    params: Params
    reverse: Reverse
    schedule: NoiseSchedule
    length_log_probs: Callable[[Params, np.ndarray, np.ndarray], jax.Array] | None = None

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        weights: str = "ema",
        step: int | None = None,
        **sample_options: Any,
    ) -> "Generator":
        """Read a run directory that ``train`` or ``quickstart`` wrote.

        Args:
            path: the run directory.
            weights: "ema" (the first averaged rate), "ema RATE", or "params" (not averaged).
            step: which checkpoint; None means the newest that is intact.
            **sample_options: fields of ``config.SampleConfig`` to change, e.g. ``steps=50``.

        Raises:
            UserError: the path is not a run directory, its checkpoint is damaged, or an option is
                not allowed.
        """
        workdir = Workdir(path)
        config = with_sample_options(workdir.read_config(), sample_options)
        tokenizer = workdir.read_tokenizer()
        sampler = Program.build(config).timestep_sampler
        params, timestep_state = workdir.read_sampled(config, sampler, weights=weights, step=step)
        # Every device needs all parameters, as batches are spread over the devices.
        params = jax.device_put(params, NamedSharding(make_mesh(), PartitionSpec()))
        return cls.build(config, tokenizer, params, timestep_state)

    @classmethod
    def build(
        cls,
        config: ExperimentConfig,
        tokenizer: Tokenizer,
        params: Params,
        timestep_state: Any = (),
    ) -> "Generator":
        """Make a generator from parameters in memory.

        Args:
            config: ``config.model.vocab_size`` must be set.
            tokenizer: ids to text and back.
            params: parameters of the denoiser.
            timestep_state: ``TrainState.timestep_state``; with ``time_warp``, it says which way
                chains take.
        """
        program = Program.build(config)
        schedule = program.chain_schedule(params, timestep_state)
        reverse = _compiled_chain(program, schedule)
        lengths = program.model.predict_length
        return cls(config, tokenizer, params, reverse, schedule, lengths and jax.jit(lengths))

    def options(self, **others: Any) -> dict[str, Any]:
        """Return what the texts depend on, as JSON values: weights, sampling, and ``others``."""
        return {
            "weights": params_digest(self.params),
            "sampling": asdict(self.config.sample),
            **others,
        }

    def with_sampling(self, **sample_options: Any) -> "Generator":
        """Return the same model with other ways to sample (``config.SampleConfig`` fields)."""
        config = with_sample_options(self.config, sample_options)
        reverse = _compiled_chain(Program.build(config), self.schedule)
        return replace(self, config=config, reverse=reverse)

    def cutting_sources(self) -> "Generator":
        """Return the same model; it cuts the end off a source that is too long, refusing none.

        A quarter of the row is left to the target. Models trained with ``on_long="truncate"`` do so
        by themselves.
        """
        data = replace(self.config.data, on_long="truncate")
        return replace(self, config=replace(self.config, data=data))

    def sample(self, num_samples: int, *, seed: int = 0, batch_size: int = 64) -> list[str]:
        """Write new texts with a model of single texts; ``stream`` gives them as they are made."""
        return list(self.stream(num_samples, seed=seed, batch_size=batch_size))

    def stream(
        self, num_samples: int, *, seed: int = 0, batch_size: int = 64, first_index: int = 0
    ) -> Iterator[str]:
        """Write new texts with a model of single texts, a batch at a time.

        Args:
            num_samples: how many.
            seed: sample i depends on the seed and on i alone, not on the batch it is in.
            batch_size: rows per compiled call.
            first_index: index i of the first text, for a run that is resumed in the middle.

        Raises:
            UserError: at once when the model was trained on pairs, or a number is out of range.
        """
        _check_whole(num_samples=num_samples, first_index=first_index)
        if num_samples < 1:
            raise UserError(f"num_samples is {num_samples}; ask for at least 1")
        if self.config.data.task == "pair":
            raise UserError("this model writes targets for sources; use generate, not sample")
        check_batch_and_seed(batch_size, seed)
        _check_indices(first_index, num_samples)
        indices = range(first_index, first_index + num_samples)
        return self._stream(indices, seed, min(batch_size, num_samples))

    def _stream(self, indices: range, seed: int, batch_size: int) -> Iterator[str]:
        shape = (batch_size, self.config.data.length)
        ids = np.full(shape, self.tokenizer.pad_id, np.int32)
        everywhere = np.ones(shape, np.bool_)
        for start in range(0, len(indices), batch_size):
            some = indices[start : start + batch_size]
            row_keys = example_keys(seed, some)
            rows = self._run(ids[: len(some)], everywhere[: len(some)], row_keys, batch_size)
            yield from (self.tokenizer.decode(row) for row in rows)

    def generate(
        self,
        sources: Iterable[str],
        *,
        num_candidates: int = 1,
        length_beam: int = 1,
        max_target: int = 0,
        length_bucket: int | None = None,
        seed: int = 0,
        batch_size: int = 64,
        first_index: int = 0,
    ) -> Iterator[Generation]:
        """Write targets for source texts, in order, a few batches at a time.

        All candidates of all sources are rows of one compiled chain. A model as published fills its
        row with padding of its own making; one with a length head is given the padding (its
        ``length_beam`` likeliest lengths), and generates the words alone.

        Where the end of a target is known (from a length head or ``max_target``), rows are cut as
        they were in training (``config.data.length_bucket``): a row ends where its target must end,
        rounded up to a multiple of the bucket, and each length that occurs is compiled once. The
        network attends to padding too, so rows that are cut otherwise than in training give other
        texts; the noise of the positions that remain is the same.

        Args:
            sources: source texts, read as they are needed.
            num_candidates: texts per source (and length), each with its own noise.
            length_beam: how many lengths to try, the likeliest first; for a length head. A source
                then has ``length_beam * num_candidates`` candidates. Where it leaves room for fewer
                lengths, they take turns, each time with other noise.
            max_target: the most target tokens, START and END included; 0 is what the row allows.
            length_bucket: cut rows to a multiple of this many tokens; 0 keeps them at full length,
                None does as training did. See above.
            seed: candidate c of source i depends on the seed, i and c alone.
            batch_size: rows per compiled call.
            first_index: index i of the first source, for a run that is resumed in the middle.

        Returns:
            One Generation per source, made while it is iterated over.

        Raises:
            UserError: at once when the model was not trained on pairs, a number is out of range or
                the model cannot honour an option; in its turn when a source is no text, empty or
                too long (see ``check_source``).
        """
        if self.config.data.task != "pair":
            raise UserError("this model writes texts without a source; use sample, not generate")
        if isinstance(sources, str):
            raise UserError("sources must be a list of texts, not one text")
        if length_bucket is None:
            length_bucket = self.trained_bucket(max_target)
        _check_whole(num_candidates=num_candidates, length_beam=length_beam, max_target=max_target)
        _check_whole(length_bucket=length_bucket, first_index=first_index)
        if num_candidates < 1:
            raise UserError(f"num_candidates is {num_candidates}; ask for at least 1")
        check_batch_and_seed(batch_size, seed)
        _check_indices(first_index, 0)
        shape = RowShape(self.config.data.length, length_beam, num_candidates, max_target)
        shape.check(length_bucket, has_head=self.config.model.length_head)
        return self._generate(
            iter(sources), first_index, shape, length_bucket or None, seed, batch_size
        )

    def trained_bucket(self, max_target: int = 0) -> int:
        """Return the multiple that training cut rows to, 0 where it is not known where they end."""
        ends_known = self.config.model.length_head or max_target > 0
        return self.config.data.length_bucket if ends_known else 0

    def check_source(self, text: str, index: int) -> None:
        """Raise UserError where a source is empty or too long; ``index`` (from 0) is for it."""
        self._pack(text, index)

    def _generate(
        self,
        sources: Iterator[str],
        first_index: int,
        shape: RowShape,
        bucket: int | None,
        seed: int,
        batch_size: int,
    ) -> Iterator[Generation]:
        per_source = shape.length_beam * shape.num_candidates
        # With buckets a window of several batches is sorted by length before it is run.
        per_window = max(1, batch_size // per_source) * (WINDOW if bucket else 1)
        num_rows = None
        while texts := list(islice(sources, per_window)):
            packed = [self._pack(text, first_index + i) for i, text in enumerate(texts)]
            rows = self.rows_to_write(packed, shape)
            _check_indices(first_index, len(texts))
            indices = range(first_index, first_index + len(texts))
            row_keys = example_keys(seed, indices, per_source)
            # No later batch is larger than the first: filled up to its size, they need no program
            # of their own.
            num_rows = num_rows or min(batch_size, len(rows))
            written = self.write_rows(rows, row_keys, bucket, num_rows)
            for i, text in enumerate(texts):
                yield Generation(text, written[i * per_source : (i + 1) * per_source])
            first_index += len(texts)

    def rows_to_write(self, packed: Sequence[Row], shape: RowShape) -> list[Row]:
        """Return ``shape``'s rows for packed sources, their ends as the length head has them."""
        return shape.rows(packed, self._lengths(packed), self.tokenizer.pad_id)

    def _lengths(self, packed: Sequence[Row]) -> np.ndarray | None:
        """Return log-probabilities of target lengths [N, lengths], where the model knows them."""
        if self.length_log_probs is None:
            return None
        ids = np.stack([row.input_ids for row in packed])
        masks = np.stack([row.noise_mask for row in packed])
        return np.asarray(self.length_log_probs(self.params, ids, masks))

    def write_rows(
        self, rows: Sequence[Row], row_keys: jax.Array, bucket: int | None, batch_size: int
    ) -> list[str]:
        """Run rows of one length together and return their texts in the order of the rows.

        Args:
            rows: of pairs, N of them.
            row_keys: typed keys [N].
            bucket: rows are cut to a multiple of it; None leaves them whole.
            batch_size: rows per compiled call.
        """
        full = self.config.data.length
        ends = [row_end(row, bucket, full) for row in rows]
        texts: list[str] = [""] * len(rows)
        for end in sorted(set(ends)):
            chosen = np.array([i for i, own in enumerate(ends) if own == end])
            ids = np.stack([rows[i].input_ids[:end] for i in chosen])
            masks = np.stack([rows[i].noise_mask[:end] for i in chosen])
            written = self._run(ids, masks, row_keys[chosen], batch_size)
            for i, row, mask in zip(chosen, written, masks):
                texts[i] = self.tokenizer.decode(unpack_target(row, mask, self.tokenizer))
        return texts

    def _pack(self, text: str, index: int) -> Row:
        if not isinstance(text, str):
            raise UserError(f"source {index + 1} is {text!r}; every source must be a text")
        if not text.strip():
            raise UserError(f"source {index + 1} is empty; every line needs a source text")
        length, cut = self.config.data.length, self.config.data.on_long == "truncate"
        try:
            return pack_source(
                self.tokenizer.encode(text),
                length,
                self.tokenizer,
                # Cut to the last position, a source would leave a target of a single token.
                target_room=max(MIN_TARGET, length // 4) if cut else MIN_TARGET,
                on_long="truncate" if cut else "error",
            )
        except UserError as error:
            raise UserError(f"source {index + 1}: {error}") from error

    def _run(
        self, ids: np.ndarray, noise_mask: np.ndarray, row_keys: jax.Array, batch_size: int
    ) -> np.ndarray:
        """Run the chain over all rows in batches of one size, so that it compiles once."""
        return run_batches(
            lambda *batch: self.reverse(self.params, *batch),
            (row_keys, ids, noise_mask),
            batch_size,
        )


def _compiled_chain(program: Program, schedule: NoiseSchedule) -> Reverse:
    """Return the chain of a configuration, ready to be compiled."""
    config = program.config
    reverse = make_reverse(
        program.model,
        config.model,
        schedule,
        config.sample,
        absorb_rate=config.diffusion.absorb_rate,
    )
    return jax.jit(reverse)


def check_batch_and_seed(batch_size: int, seed: int) -> None:
    """Raise UserError for a batch size or a seed out of range."""
    _check_whole(batch_size=batch_size, seed=seed)
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}; it must be between 0 and 2**32 - 1")


def _check_whole(**values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise UserError(f"{name} is {value!r}; it must be a whole number")


def _check_indices(first: int, count: int) -> None:
    """Raise UserError unless that many texts from the first on have an index."""
    if first < 0 or first + max(count, 1) > MAX_SAMPLES:
        raise UserError(
            f"texts {first} to {first + count} of a seed; their indices go from 0 to "
            f"{MAX_SAMPLES - 1:,}: take another seed for more"
        )


def with_sample_options(config: ExperimentConfig, options: dict[str, Any]) -> ExperimentConfig:
    """Return the configuration with other ``SampleConfig`` fields; UserError for an unknown one."""
    known = {field.name for field in fields(SampleConfig)}
    for name in options:
        if name not in known:
            raise UserError(f"unknown sampling option {name!r}; choose from {sorted(known)}")
    return replace(config, sample=config.sample.changed(**options))
