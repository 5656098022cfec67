"""From a checkpoint to text: unconditional samples and sequence to sequence, one compiled program.

Both tasks are the same reverse chain. What differs is the row that goes in: a row of padding whose
positions are all generated, or a packed source followed by positions to generate (the noise mask).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
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
from diffusion_jax.text.packing import pack_source, unpack_target
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.types import Params
from diffusion_jax.workdir import Workdir


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
    """

    config: ExperimentConfig
    tokenizer: Tokenizer
    params: Params
    reverse: Reverse

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
        params, timestep_state = workdir.read_sampled(config, weights=weights, step=step)
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
        reverse = make_reverse(
            program.model,
            config.model,
            schedule,
            config.sample,
            absorb_rate=config.diffusion.absorb_rate,
        )
        return cls(config, tokenizer, params, jax.jit(reverse))

    def sample(self, num_samples: int, *, seed: int = 0, batch_size: int = 64) -> list[str]:
        """Write new texts with a model of single texts.

        Args:
            num_samples: how many.
            seed: sample i depends on the seed and on i alone, not on the batch it is in.
            batch_size: rows per compiled call.

        Raises:
            UserError: the model was trained on pairs, or a number is out of range.
        """
        if num_samples < 1:
            raise UserError(f"num_samples is {num_samples}; ask for at least 1")
        if self.config.data.task == "pair":
            raise UserError("this model writes targets for sources; use generate, not sample")
        check_batch_and_seed(batch_size, seed)
        length = self.config.data.length
        ids = np.full((num_samples, length), self.tokenizer.pad_id, np.int32)
        everywhere = np.ones((num_samples, length), np.bool_)
        row_keys = example_keys(seed, range(num_samples))
        rows = self._run(ids, everywhere, row_keys, min(batch_size, num_samples))
        return [self.tokenizer.decode(row) for row in rows]

    def generate(
        self,
        sources: Iterable[str],
        *,
        num_candidates: int = 1,
        seed: int = 0,
        batch_size: int = 64,
        first_index: int = 0,
    ) -> Iterator[Generation]:
        """Write targets for source texts, in order, batch by batch.

        Args:
            sources: source texts, read as they are needed.
            num_candidates: texts per source, each with its own noise.
            seed: candidate c of source i depends on the seed, i and c alone.
            batch_size: rows per compiled call.
            first_index: index i of the first source, for a run that is resumed in the middle.

        Returns:
            One Generation per source, made while it is iterated over.

        Raises:
            UserError: at once when the model was not trained on pairs or a number is out of range;
                in its turn when a source is empty or too long (see ``check_source``).
        """
        if self.config.data.task != "pair":
            raise UserError("this model writes texts without a source; use sample, not generate")
        if num_candidates < 1:
            raise UserError(f"num_candidates is {num_candidates}; ask for at least 1")
        check_batch_and_seed(batch_size, seed)
        return self._generate(iter(sources), first_index, num_candidates, seed, batch_size)

    def check_source(self, text: str, index: int) -> None:
        """Raise UserError where a source is empty or too long; ``index`` (from 0) is for it."""
        self._pack(text, index)

    def _generate(
        self,
        sources: Iterator[str],
        first_index: int,
        num_candidates: int,
        seed: int,
        batch_size: int,
    ) -> Iterator[Generation]:
        per_batch = max(1, batch_size // num_candidates)
        num_rows = None
        while batch := list(islice(sources, per_batch)):
            # No later batch is larger than the first: filled up to its size, they need no program
            # of their own.
            num_rows = num_rows or min(batch_size, len(batch) * num_candidates)
            yield from self._generate_batch(batch, first_index, num_candidates, seed, num_rows)
            first_index += len(batch)

    def _generate_batch(
        self,
        sources: Sequence[str],
        first_index: int,
        num_candidates: int,
        seed: int,
        batch_size: int,
    ) -> list[Generation]:
        rows = [self._pack(text, first_index + i) for i, text in enumerate(sources)]
        ids = np.repeat([row.input_ids for row in rows], num_candidates, axis=0)
        masks = np.repeat([row.noise_mask for row in rows], num_candidates, axis=0)
        indices = range(first_index, first_index + len(sources))
        row_keys = example_keys(seed, indices, num_candidates)
        written = self._run(ids, masks, row_keys, batch_size)
        texts = [
            self.tokenizer.decode(unpack_target(row, mask, self.tokenizer))
            for row, mask in zip(written, masks)
        ]
        return [
            Generation(source, texts[i * num_candidates : (i + 1) * num_candidates])
            for i, source in enumerate(sources)
        ]

    def _pack(self, text: str, index: int) -> Any:
        if not text.strip():
            raise UserError(f"source {index + 1} is empty; every line needs a source text")
        on_long = "truncate" if self.config.data.on_long == "truncate" else "error"
        try:
            return pack_source(
                self.tokenizer.encode(text),
                self.config.data.length,
                self.tokenizer,
                on_long=on_long,
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


def check_batch_and_seed(batch_size: int, seed: int) -> None:
    """Raise UserError for a batch size or a seed out of range."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}; it must be between 0 and 2**32 - 1")


def with_sample_options(config: ExperimentConfig, options: dict[str, Any]) -> ExperimentConfig:
    """Return the configuration with other ``SampleConfig`` fields; UserError for an unknown one."""
    known = {field.name for field in fields(SampleConfig)}
    for name in options:
        if name not in known:
            raise UserError(f"unknown sampling option {name!r}; choose from {sorted(known)}")
    return replace(config, sample=config.sample.changed(**options))
