"""The devices as a grid with named axes: ``data``, ``fsdp`` and ``tensor``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffusion_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[Any] | None = None
) -> Mesh:
    """Lay the devices out as a [data, fsdp, tensor] mesh.

    Args:
        data: copies of the model, each on its own rows of the batch.
        fsdp: pieces that parameters, averages and optimiser state are cut into; also splits the
            batch (ZeRO stage 3, Rajbhandari et al. 2020).
        tensor: pieces that single matrix products are cut into (Shoeybi et al. 2019).
        devices: which ``jax.Device`` to lay out; default all devices of all processes.

    Returns:
        A mesh with Auto axes: the compiler derives every placement that is not given.

    Raises:
        UserError: unless the three sizes multiply to the number of devices. One size may be -1 and
            then takes what the others leave.
    """
    # Processes one after the other, so that the rows of each are one block of the batch.
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: d.process_index)
    sizes: dict[str, int] = dict(zip(AXES, (data, fsdp, tensor)))
    shape = ", ".join(f"{name}={size}" for name, size in sizes.items())
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"mesh {shape}: every size must be at least 1, or -1 for 'the rest'")
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"mesh {shape}: only one size may be -1")
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(devices) % known or (not free and known != len(devices)):
        raise UserError(
            f"mesh {shape} needs {'a multiple of ' if free else ''}{known} devices; "
            f"there are {len(devices)}"
        )
    for name in free:
        sizes[name] = len(devices) // known
    grid = np.asarray(devices).reshape(tuple(sizes.values()))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the placement of a batch: rows over ``data`` and ``fsdp``, whole otherwise."""
    return NamedSharding(mesh, P(BATCH_AXES))


def check_batch_size(mesh: Mesh, global_batch_size: int, num_microbatches: int = 1) -> None:
    """Raise UserError unless every device gets the same number of rows of every microbatch."""
    shards = math.prod(mesh.shape[name] for name in BATCH_AXES)
    if global_batch_size % (shards * num_microbatches):
        pieces = f"{shards} devices (data x fsdp)"
        if num_microbatches > 1:
            pieces += f" x {num_microbatches} microbatches"
        nearest = max(1, round(global_batch_size / (shards * num_microbatches)))
        raise UserError(
            f"batch size {global_batch_size} does not divide over {pieces}; "
            f"use a multiple of {shards * num_microbatches}, for example "
            f"{nearest * shards * num_microbatches}"
        )


def batch_block(mesh: Mesh) -> tuple[int, int]:
    """Return which block of the global batch this process feeds, and how many blocks there are.

    With a ``tensor`` axis longer than a process has devices, several processes feed the same rows.

    Returns:
        (index, count): of the global batch cut into ``count`` blocks, the one numbered ``index``.

    Raises:
        UserError: the devices of a process hold rows that no such block is.
    """
    shards = math.prod(mesh.shape[name] for name in BATCH_AXES)
    tensor = mesh.shape["tensor"]
    grid = mesh.devices.reshape(shards, tensor)
    owner = np.vectorize(lambda device: device.process_index)(grid)
    own = [np.flatnonzero((owner == process).any(axis=1)) for process in np.unique(owner)]
    size = len(own[0])
    if any(len(rows) != size or rows[0] % size or rows[-1] - rows[0] != size - 1 for rows in own):
        raise UserError(
            f"mesh axis tensor={tensor} cuts across processes that have "
            f"{len(mesh.local_devices)} devices each; choose a divisor or a multiple of that"
        )
    here = own[list(np.unique(owner)).index(jax.process_index())]
    return int(here[0]) // size, shards // size


def place_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Put this process's rows on its devices, as part of one global batch.

    Args:
        mesh: where to.
        batch: this process's rows, [local B, ...] per name: its ``batch_block``.

    Returns:
        Global arrays [B, ...], rows sharded over ``data`` and ``fsdp``.
    """
    sharding = batch_sharding(mesh)
    _, blocks = batch_block(mesh)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, rows, (rows.shape[0] * blocks, *rows.shape[1:])
        )
        for name, rows in batch.items()
    }


def spread_rows(mesh: Mesh, rows: Any) -> Any:
    """Put rows that every process holds in full on the devices, each its part.

    Args:
        mesh: where to.
        rows: pytree of arrays [B, ...]; typed keys too.

    Returns:
        The same as global arrays, rows sharded over ``data`` and ``fsdp``.
    """
    sharding = batch_sharding(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(rows, sharding)

    def spread(array: Any) -> jax.Array:
        if isinstance(array, jax.Array) and jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                spread(jax.random.key_data(array)), impl=jax.random.key_impl(array)
            )
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(spread, rows)


def gather_rows(array: Any) -> np.ndarray:
    """Return a whole global array on every process; collective where it lies on several."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
