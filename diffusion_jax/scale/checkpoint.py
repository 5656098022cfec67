"""Checkpoints: written in the background, checked when read, never trusted blindly.

The only importer of Orbax. A checkpoint holds the parts of a TrainState, a checksum of each, and a
JSON record (configuration, tokenizer fingerprint, ...). Reading one never runs code from it: arrays
are arrays and the record is JSON.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from diffusion_jax.errors import RunError, UserError
from diffusion_jax.scale import checkpoint_format as fmt
from diffusion_jax.scale.agreement import exchange
from diffusion_jax.scale.checkpoint_format import DamagedCheckpointError, MismatchError

logger = logging.getLogger(__name__)

_ITEM = "state"
_SUBDIRECTORY = "checkpoints"
_TEMPORARY = ".orbax-checkpoint-tmp"


class Restored(NamedTuple):
    """A state and the step at which it was saved."""

    state: Any
    step: int


class CheckpointStore:
    """The checkpoints of one run, under ``workdir/checkpoints/<step>``.

    Opening a store for reading changes nothing on disk, so that a run can be looked at while it is
    training.
    """

    def __init__(
        self,
        workdir: str | epath.PathLike,
        *,
        keep_last: int = 3,
        keep_every: int | None = None,
    ):
        """Name the store; nothing is read or created yet.

        Args:
            workdir: directory of the run.
            keep_last: how many of the newest checkpoints are kept.
            keep_every: also keep every checkpoint whose step is a multiple of this.

        Raises:
            UserError: when a number is out of range.
        """
        if keep_last < 1:
            raise UserError(f"keep_last is {keep_last}; at least 1 checkpoint must be kept")
        if keep_every is not None and keep_every < 1:
            raise UserError(f"keep_every is {keep_every}; it must be at least 1, or None")
        self.directory = epath.Path(workdir).absolute() / _SUBDIRECTORY
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._writer: ocp.training.Checkpointer | None = None
        self._passed_over: set[int] = set()

    def __enter__(self) -> Self:
        """Return the store; ``with`` waits for the last save."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the last save to be on disk.

        After an error it is that error which is told; among several processes nothing is waited for
        then, as the others may be gone.
        """
        if error is None:
            self.close()
        elif jax.process_count() == 1:
            with contextlib.suppress(RunError):
                self.close()

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, oldest first."""
        if not self.directory.exists():
            return []
        return sorted(int(entry.name) for entry in self.directory.iterdir() if _is_step(entry))

    def save(self, step: int, state: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Start writing a checkpoint and return; ``wait`` or the next save waits for the end.

        Returns as soon as the state may be donated. The checkpoint appears under its name only when
        it is complete.

        Args:
            step: updates made; a checkpoint of the same step is replaced.
            state: a dataclass of pytrees of arrays.
            metadata: what else a reader needs, as JSON values.

        Raises:
            RunError: this save, or the one before, cannot be written; likewise ``wait``, ``close``.
        """
        parts = fmt.split(state)
        with self._saving():
            self._open_writer().save_async(
                step,
                {**parts, fmt.CHECKSUMS: fmt.checksums(parts)},
                checkpointable_name=_ITEM,
                force=True,
                overwrite=step in self.steps(),
                custom_metadata=fmt.seal(dict(metadata or {})),
            )

    def wait(self) -> None:
        """Block until the last save is on disk."""
        if self._writer is not None:
            with self._saving():
                self._writer.wait()

    def close(self) -> None:
        """Wait for the last save and release the writer."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._saving():
                writer.close()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Name what keeps a checkpoint from being written, and what is left on disk."""
        try:
            yield
        except Exception as error:
            free = shutil.disk_usage(self.directory).free / 1e6
            saved = self.steps()
            newest = (
                f"the newest on disk is {self._path(saved[-1])}" if saved else "none is on disk"
            )
            raise RunError(
                f"a checkpoint could not be saved ({_brief(error)}); {free:,.1f} MB are free; "
                f"{newest}. Make room and go on with --resume"
            ) from error

    def restore_latest(self, abstract_state: Any) -> Restored:
        """Read the newest checkpoint that is intact.

        A damaged one is reported as a warning and the one before it is tried.

        Args:
            abstract_state: a state of the same structure whose leaves have shape, dtype and
                (optionally) sharding; arrays arrive in that sharding.

        Returns:
            The state and its step.

        Raises:
            UserError: when there is no checkpoint, or none is intact, or none fits.
        """
        template = fmt.requested(fmt.split(abstract_state))

        def read(step: int) -> Any:
            stored, _ = self._describe(step)
            fmt.check_fits(template, stored)
            checksums = fmt.requested(fmt.without_placement(stored[fmt.CHECKSUMS]))
            found = self._load(step, {**template, fmt.CHECKSUMS: checksums})
            fmt.verify(found, found.pop(fmt.CHECKSUMS))
            return type(abstract_state)(**found)

        return Restored(*self._newest_intact(read))

    def restore_params(
        self, which: str = "params", *, step: int | None = None, shardings: Any = None
    ) -> Restored:
        """Read the parameters, or one of their averages, and nothing else.

        Args:
            which: ``"params"`` or ``"ema RATE"``, e.g. ``"ema 0.9999"``.
            step: which checkpoint; default the newest intact one.
            shardings: pytree of placements; default everything on the first device.

        Returns:
            The parameters (a nested dict) and the step of the checkpoint.

        Raises:
            UserError: when there is no such checkpoint or average, or none is intact.
        """

        def read(step: int) -> Any:
            stored, _ = self._describe(step)
            template = fmt.request_only(which, stored, shardings)
            found = self._load(step, template)
            params = fmt.named_parts(found)[which]
            fmt.verify_part(which, params, found[fmt.CHECKSUMS][which])
            return params

        if step is None:
            return Restored(*self._newest_intact(read))
        return Restored(self._read_one(step, read), step)

    def restore_part(self, name: str, abstract: Any, *, step: int) -> Restored:
        """Read one field of the state and nothing else.

        Args:
            name: the field, e.g. ``"timestep_state"``.
            abstract: its structure; leaves with shape and dtype.
            step: which checkpoint.

        Raises:
            UserError: there is no such checkpoint, it is damaged, or its field has other arrays.
        """

        def read(step: int) -> Any:
            stored, _ = self._describe(step)
            found = self._load(step, fmt.request_part(name, stored, abstract))
            fmt.verify_part(name, found[name], found[fmt.CHECKSUMS][name])
            return found[name]

        return Restored(self._read_one(step, read), step)

    def metadata(self, step: int | None = None) -> dict[str, Any]:
        """Return the JSON record that was saved with a checkpoint (default: the newest intact)."""
        if step is None:
            return self._newest_intact(lambda step: self._describe(step)[1])[0]
        return self._read_one(step, lambda step: self._describe(step)[1])

    def _read_one(self, step: int, read: Callable[[int], Any]) -> Any:
        if step not in self.steps():
            raise UserError(
                f"there is no checkpoint of step {step} in {self.directory}; "
                f"there are {self.steps() or 'none'}"
            )
        try:
            return read(step)
        except DamagedCheckpointError as error:
            raise UserError(f"checkpoint {self._path(step)} is damaged: {error}") from error

    def _newest_intact(self, read: Callable[[int], Any]) -> tuple[Any, int]:
        """Return ``read(step)`` of the newest step for which it works, and the step."""
        steps = self.steps()
        if not steps:
            raise UserError(f"{self.directory.parent} holds no checkpoint")
        self._report_leftovers()
        problems: list[tuple[int, Exception]] = []
        for step in reversed(steps):
            try:
                value = read(step)
            except (DamagedCheckpointError, MismatchError) as error:
                problems.append((step, error))
                continue
            for bad, error in problems:
                logger.warning(
                    "checkpoint %s cannot be used and is passed over: %s", self._path(bad), error
                )
                self._passed_over.add(bad)
            if problems:
                logger.warning("going on from checkpoint %s", self._path(step))
            return value, step
        # Checkpoints of another model are all of another model; one that alone differs is damaged.
        for step, error in problems:
            if isinstance(error, MismatchError):
                raise MismatchError(f"checkpoint {self._path(step)}: {error}") from error
        listed = "; ".join(f"{self._path(step)}: {error}" for step, error in problems)
        raise UserError(f"no checkpoint can be read. {listed}")

    def _report_leftovers(self) -> None:
        for entry in self.directory.iterdir():
            if _TEMPORARY in entry.name:
                logger.warning(
                    "%s is what a save that was cut short left behind; it is not used", entry
                )

    def _describe(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return shapes and types of the stored arrays, and the JSON record, reading no array."""
        try:
            found = ocp.metadata(self._path(step), checkpointable_name=_ITEM)
        except Exception as error:
            raise DamagedCheckpointError(_brief(error)) from error
        if not isinstance(found.metadata, dict) or fmt.CHECKSUMS not in found.metadata:
            raise DamagedCheckpointError("its list of arrays is not one that this program writes")
        return found.metadata, fmt.unseal(found.custom_metadata)

    def _load(self, step: int, template: Any) -> Any:
        # Orbax reports damage through many exception types, some of them its own.
        found, problem = None, ""
        try:
            found = ocp.load(self._path(step), template, checkpointable_name=_ITEM)
        except Exception as error:
            problem = _brief(error)
        # Each process reads its own part; what one cannot read, all pass over.
        for met in exchange(problem):
            if met:
                raise DamagedCheckpointError(met)
        return found

    def _path(self, step: int) -> epath.Path:
        return self.directory / str(step)

    def _open_writer(self) -> ocp.training.Checkpointer:
        if self._writer is None:
            self._set_aside()
            policies = ocp.training.preservation_policies
            kept: list[Any] = [policies.LatestN(self._keep_last)]
            if self._keep_every is not None:
                kept.append(policies.EveryNSteps(self._keep_every))
            # Orbax's own annotations of its policies disagree with each other.
            either: Any = policies.AnyPreservationPolicy(kept)
            self._writer = ocp.training.Checkpointer(
                self.directory,
                preservation_policy=either,
                cleanup_tmp_directories=True,
            )
        return self._writer

    def _set_aside(self) -> None:
        """Rename checkpoints that could not be read, so that their steps can be saved again."""
        if jax.process_index() == 0:
            for step in self._passed_over:
                self._path(step).rename(self.directory / f"damaged-{step}")
        self._passed_over.clear()
        exchange("set aside")  # Nobody looks for checkpoints before that is done.


def restore_params(
    path: str | epath.PathLike, which: str = "params", *, shardings: Any = None
) -> Restored:
    """Read parameters from a run directory or from one checkpoint in it.

    Args:
        path: ``workdir`` (the newest intact checkpoint) or ``workdir/checkpoints/STEP``.
        which: ``"params"`` or ``"ema RATE"``.
        shardings: pytree of placements; default everything on the first device.

    Returns:
        The parameters and the step of the checkpoint.

    Raises:
        UserError: when the path is not a checkpoint, or is damaged, or lacks what was asked for.
    """
    store, step = open_checkpoint(path)
    return store.restore_params(which, step=step, shardings=shardings)


def open_checkpoint(path: str | epath.PathLike) -> tuple[CheckpointStore, int | None]:
    """Find out what a path given by a user means: a run, or one checkpoint of a run.

    Returns:
        The store, and the step where the path named one.

    Raises:
        UserError: when the path is neither.
    """
    given = epath.Path(path).absolute()
    if not given.exists():
        raise UserError(f"checkpoint {given} does not exist")
    if given.name == _SUBDIRECTORY:
        given = given.parent
    if given.parent.name == _SUBDIRECTORY and given.name.isdigit():
        store, step = CheckpointStore(given.parent.parent), int(given.name)
    else:
        store, step = CheckpointStore(given), None
    if not store.steps():
        raise UserError(
            f"{given} is not a checkpoint; give the directory of a run (it has a subdirectory "
            f"{_SUBDIRECTORY}/ with numbered checkpoints) or one of the numbered directories"
        )
    return store, step


def _is_step(entry: epath.Path) -> bool:
    return entry.name.isdigit() and entry.is_dir()


def _brief(error: Exception) -> str:
    """Return the innermost cause on one line: wrappers only say that something was wrong."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
