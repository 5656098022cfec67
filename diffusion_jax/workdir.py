"""The directory of a run: configuration, tokenizer, checkpoints, metrics, samples.

    workdir/config.json       the resolved configuration
            tokenizer/        plain files, see text.tokenizers
            rows.json         checksum of the rows that are learned from
            checkpoints/N/    one per saved step, see scale.checkpoint
            metrics.jsonl     one line per logged step
            samples.jsonl     texts written during training
            timings.jsonl     what each session's time was spent on
            tensorboard/      where asked for
            lock              while a trainer is at work, see scale.lock
            profile/          where asked for
            compiled/         programs that a resumed run need not compile again

It is what `train` writes, and the only thing that `sample` and `generate` need. Reading it never
runs code from it. Going on with training does: `compiled/` holds programs.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.config import AutoregressiveRunConfig, ClassifierRunConfig, ExperimentConfig
from diffusion_jax.config_io import Config, differences, read_json
from diffusion_jax.errors import UserError
from diffusion_jax.scale import lock
from diffusion_jax.scale.checkpoint import CheckpointStore
from diffusion_jax.text.files import check_local
from diffusion_jax.text.tokenizers import Tokenizer, load_tokenizer
from diffusion_jax.timesteps import TimestepSampler
from diffusion_jax.train.state import ema_name
from diffusion_jax.types import Params

AnyConfig = ExperimentConfig | ClassifierRunConfig | AutoregressiveRunConfig
"""What a run may be of."""


def data_mark(checksum: int) -> str:
    """Return the checksum of training rows as checkpoints hold it."""
    return f"{checksum:08x}"


# Fields that may differ when a run is resumed: they change what is shown, kept or where it runs,
# not what is learned.
RESUMABLE = (
    "name",
    "checkpoint",
    "data.cache",
    # How it is computed, as for the mesh: the same to rounding.
    "model.remat",
    "model.attention_impl",
    "train.log_every",
    "train.validate_every",
    "train.preview_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.tensorboard",
    "train.profile_steps",
    "train.compilation_cache",
    "sample.",
    "mesh.",
)
# Fields that may differ too where a checksum tells whether the rows are the same.
MOVABLE = ("data.corpus", "data.data_dir", "data.validation", "data.validation_size")
# What a start that was cut short may leave behind.
_UNFINISHED_TOKENIZER = "tokenizer.tmp"
_LEFTOVERS = (
    "tokenizer",
    _UNFINISHED_TOKENIZER,
    "config.json.tmp",
    "data",
    "labels.json",
    "labels.json.tmp",
    "rows.json",
    "rows.json.tmp",
    lock.FILE,
)


class Workdir:
    """Read and write a run directory."""

    def __init__(self, path: str | Path):
        """Name the directory; nothing is read or created yet.

        Raises:
            UserError: an address such as ``gs://bucket/run``, which would become a local directory.
        """
        check_local(path)
        self.path = Path(path)

    @property
    def config_file(self) -> Path:
        """Where the resolved configuration lies."""
        return self.path / "config.json"

    @property
    def tokenizer_dir(self) -> Path:
        """Where the tokenizer lies."""
        return self.path / "tokenizer"

    @property
    def labels_file(self) -> Path:
        """Where a classifier keeps what it tells apart."""
        return self.path / "labels.json"

    @property
    def rows_file(self) -> Path:
        """Where the checksum of the rows lies that the run was begun with."""
        return self.path / "rows.json"

    @property
    def metrics_file(self) -> Path:
        """Where metrics go, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def samples_file(self) -> Path:
        """Where previews go, one JSON object per line."""
        return self.path / "samples.jsonl"

    @property
    def timings_file(self) -> Path:
        """Where the time that each session took goes, one JSON object per line."""
        return self.path / "timings.jsonl"

    @property
    def profile_dir(self) -> Path:
        """Where traces go."""
        return self.path / "profile"

    @property
    def compilation_dir(self) -> Path:
        """Where compiled programs are kept."""
        return self.path / "compiled"

    def is_run(self) -> bool:
        """Return whether a run was started here."""
        return self.config_file.is_file()

    def lock(self) -> AbstractContextManager[None]:
        """Keep other trainers out while the ``with`` lasts; raises UserError where one is in."""
        return lock.locked(self.path)

    def create(
        self, config: AnyConfig, tokenizer: Tokenizer, *, checksum: int | None = None
    ) -> None:
        """Start a run: write configuration, tokenizer and, where there are any, the rows' checksum.

        Raises:
            UserError: the directory is in use; nothing is overwritten.
        """
        self.check_unused()
        if self.tokenizer_dir.exists():
            self._check_ours(tokenizer)
        else:
            # At once, so that a start that is cut short leaves a whole tokenizer or none.
            unfinished = self.path / _UNFINISHED_TOKENIZER
            shutil.rmtree(unfinished, ignore_errors=True)
            tokenizer.save(unfinished)
            os.replace(unfinished, self.tokenizer_dir)
        if checksum is not None:
            write_whole(self.rows_file, json.dumps({"rows": data_mark(checksum)}) + "\n")
        # The configuration goes last and at once: its presence says that the run has begun.
        self.write_config(config)

    def _check_ours(self, tokenizer: Tokenizer) -> None:
        """Raise UserError where the tokenizer that lies here is not the one to be stored."""
        try:
            load_tokenizer(self.tokenizer_dir, fingerprint=tokenizer.fingerprint())
        except UserError as error:
            raise UserError(
                f"{self.tokenizer_dir} is there already and is not this run's tokenizer; move it "
                f"away, or choose another --workdir ({error})"
            ) from error

    def check_shared(self, *, seconds: float = 60.0) -> None:
        """Raise UserError where the run that process 0 has begun does not appear in time.

        Network file systems show the files of another machine some seconds late.
        """
        deadline = time.monotonic() + seconds
        while not self.is_run():
            if time.monotonic() > deadline:
                raise UserError(
                    f"{self.config_file}, which process 0 wrote, is not seen here; the work "
                    "directory must lie on a file system that all processes share"
                )
            time.sleep(0.2)
            if self.path.is_dir():
                os.listdir(self.path)  # Some file systems look again only then.

    def write_labels(self, labels: Mapping[str, Any]) -> None:
        """Store what a classifier tells apart, before its configuration.

        Raises:
            UserError: other labels lie there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(labels, ensure_ascii=False, indent=2) + "\n"
        if self.labels_file.exists() and self.labels_file.read_bytes() != text.encode():
            raise UserError(
                f"{self.labels_file} is there already and is not this run's; move it away, or "
                "choose another --workdir"
            )
        write_whole(self.labels_file, text)

    def write_config(self, config: AnyConfig) -> None:
        """Store the configuration, also that of a run that goes on with other display options."""
        write_whole(self.config_file, config.to_json())

    def check_unused(self) -> None:
        """Raise UserError where a run, or anything else, already lies."""
        if self.is_run():
            raise UserError(
                f"{self.path} already holds a run; continue it with --resume, or choose another "
                "--workdir"
            )
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; choose a directory for --workdir")
        strangers = [p.name for p in self.path.iterdir()] if self.path.exists() else []
        # What a start that was interrupted may have left behind is ours to replace.
        strangers = [n for n in strangers if n not in _LEFTOVERS]
        if strangers:
            raise UserError(
                f"{self.path} is not empty ({', '.join(sorted(strangers)[:3])} ...) and holds no "
                "run; choose another --workdir"
            )

    def check_same_run(self, config: AnyConfig, *, unless_set: Sequence[str] = ()) -> None:
        """Raise UserError where a resumed run would learn something else than the one begun.

        Args:
            config: of the run that is to go on.
            unless_set: fields that are yet to be filled in; None there is no difference.
        """
        changed = differences(self.read_config(type(config)), config)
        # Where the rows have a checksum they may come from anywhere.
        allowed = RESUMABLE + (MOVABLE if self._mark() is not None else ())
        refused = {
            name: (old, new)
            for name, (old, new) in changed.items()
            if not name.startswith(allowed) and not (name in unless_set and new is None)
        }
        if refused:
            listing = "; ".join(f"{n}: {old!r} -> {new!r}" for n, (old, new) in refused.items())
            raise UserError(
                f"{self.path} was begun with another configuration ({listing}); leave these as "
                "they were, or choose another --workdir"
            )

    def read_config(self, kind: type[Config] = ExperimentConfig) -> Config:
        """Return the stored configuration; raises UserError where this is no such run directory.

        Args:
            kind: what was trained: a diffusion model, or one of ``config.control``.
        """
        if not self.is_run():
            reason = "does not exist" if not self.path.exists() else "holds no config.json"
            raise UserError(
                f"{self.path} is not a run directory: it {reason}; give the --workdir of a "
                "training run"
            )
        return read_json(self.config_file, kind)

    def check_same_data(self, checksum: int) -> None:
        """Raise UserError where the rows are not those that the run was begun with."""
        begun_with, mark = self._mark(), data_mark(checksum)
        if begun_with not in (None, mark):
            raise UserError(
                f"the training data is not what it was when {self.path} was begun (checksum of its "
                f"rows {begun_with} then, {mark} now); bring it back, or choose another "
                "--workdir"
            )

    def _mark(self) -> str | None:
        """Return the mark of the rows: of the newest checkpoint, or of the start; None without."""
        store = self.checkpoints()
        if store.steps() and (mark := store.metadata().get("data")) is not None:
            return str(mark)
        try:
            return str(json.loads(self.rows_file.read_text(encoding="utf-8"))["rows"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def read_tokenizer(self) -> Tokenizer:
        """Return the tokenizer that the run was trained with.

        Raises:
            UserError: it is missing, damaged, or not the one that the checkpoint was trained with.
        """
        store = self.checkpoints()
        trained_with = store.metadata().get("tokenizer") if store.steps() else None
        return load_tokenizer(self.tokenizer_dir, fingerprint=trained_with)

    def read_params(
        self, config: AnyConfig, *, weights: str = "ema", step: int | None = None
    ) -> Params:
        """Return the denoiser's parameters from a checkpoint.

        Args:
            config: the run's configuration.
            weights: "ema" for the first averaged rate (or the raw parameters where none is kept),
                "ema RATE", or "params".
            step: which checkpoint; None means the newest that is intact.

        Raises:
            UserError: no intact checkpoint, or no such weights.
        """
        return self.checkpoints().restore_params(weights_name(config, weights), step=step).state

    def read_sampled(
        self,
        config: ExperimentConfig,
        sampler: TimestepSampler,
        *,
        weights: str = "ema",
        step: int | None = None,
    ) -> tuple[Params, Any]:
        """Return what a chain needs of a checkpoint: parameters, and the timestep sampler's state.

        Args:
            config: the run's configuration.
            sampler: its timestep sampler; the state of one that chains do not depend on is ().
            weights: see ``read_params``.
            step: which checkpoint; None means the newest that is intact.

        Raises:
            UserError: no intact checkpoint, no such weights, or a checkpoint without the state.
        """
        store = self.checkpoints()
        restored = store.restore_params(weights_name(config, weights), step=step)
        if not sampler.learns_path:
            return restored.state, ()
        abstract = jax.eval_shape(sampler.init)
        part = store.restore_part("timestep_state", abstract, step=restored.step)
        return restored.state, part.state

    def checkpoints(self, *, keep_last: int = 3) -> CheckpointStore:
        """Return the run's checkpoints."""
        return CheckpointStore(self.path, keep_last=keep_last)


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name first: a file of this name is a whole one."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def params_digest(params: Params, digest: Any = None) -> str:
    """Return a digest of names and values; goes on from ``digest`` where one is given."""
    digest = digest or hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf, np.float32).tobytes())
    return digest.hexdigest()


def weights_name(config: AnyConfig, weights: str) -> str:
    """Return what "ema" stands for: the first averaged rate, or "params" where none is kept."""
    if weights != "ema":
        return weights
    rates = config.train.ema_rates
    return f"ema {ema_name(rates[0])}" if rates else "params"
