"""Where every array of a run lives: logical axis names in, placements out.

A model names the axes of its parameters (``Model.logical_axes``); this module alone decides which
of them are cut over which axis of the mesh. No path of the program depends on the answer.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffusion_jax.errors import UserError
from diffusion_jax.scale.mesh import batch_sharding

LogicalAxes = tuple[str | None, ...]

TENSOR_AXES = ("mlp", "heads", "vocab")
"""Axes cut over ``tensor``: the column and row axes of Shoeybi et al. 2019."""

OPTIONAL_TENSOR_AXES = ("vocab",)
"""Stay whole where ``tensor`` does not divide them: nobody chooses the size of a vocabulary."""

SCANNED_AXES = ("layers",)
"""Never cut: the scan over layers takes one whole layer at a time."""


def partition_spec(mesh: Mesh, shape: tuple[int, ...], axes: LogicalAxes, name: str) -> P:
    """Decide how one parameter is cut.

    ``tensor`` takes the first axis that it may cut; ``fsdp`` takes the largest remaining axis that
    it divides. An array without such an axis is kept whole on every device.

    Args:
        mesh: with axes ``fsdp`` and ``tensor``.
        shape: of the parameter.
        axes: one logical name (or None) per dimension.
        name: of the parameter, for messages.

    Returns:
        A PartitionSpec of the parameter's rank.

    Raises:
        UserError: when ``tensor`` does not divide an axis that it has to cut.
        ValueError: when ``axes`` does not have one entry per dimension.
    """
    if len(axes) != len(shape):
        raise ValueError(f"parameter {name} has shape {shape} but logical axes {axes}")
    spec: list[str | None] = [None] * len(shape)
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
    if tensor > 1:
        for i, axis in enumerate(axes):
            if axis not in TENSOR_AXES:
                continue
            if shape[i] % tensor == 0:
                spec[i] = "tensor"
                break
            if axis not in OPTIONAL_TENSOR_AXES:
                raise UserError(
                    f"mesh axis tensor={tensor} does not divide axis {axis!r} (size {shape[i]}) of "
                    f"parameter {name}; choose a tensor size that divides it"
                )
    if fsdp > 1:
        candidates = [
            i
            for i, axis in enumerate(axes)
            if spec[i] is None and axis not in SCANNED_AXES and shape[i] % fsdp == 0
        ]
        if candidates:
            spec[max(candidates, key=lambda i: shape[i])] = "fsdp"
    return P(*spec)


def param_shardings(mesh: Mesh, abstract_params: Any, logical_axes: Any) -> Any:
    """Place parameters.

    Args:
        mesh: where to.
        abstract_params: pytree of arrays or shapes.
        logical_axes: pytree of the same structure with a tuple of names per leaf
            (``Model.logical_axes()``).

    Returns:
        The same structure with a NamedSharding per leaf.
    """

    def place(path: Any, leaf: Any, axes: LogicalAxes) -> NamedSharding:
        name = jax.tree_util.keystr(path)
        return NamedSharding(mesh, partition_spec(mesh, leaf.shape, tuple(axes), name))

    return jax.tree_util.tree_map_with_path(place, abstract_params, logical_axes)


def state_shardings(
    mesh: Mesh, abstract_state: Any, logical_axes: Any, init_optimizer: Callable[[Any], Any]
) -> Any:
    """Place a whole TrainState: averages and optimiser moments lie where their parameters lie.

    Args:
        mesh: where to.
        abstract_state: a TrainState of arrays or shapes (``jax.eval_shape`` of ``init_state``).
        logical_axes: see ``param_shardings``.
        init_optimizer: ``Optimizer.init``, from which it is known which arrays follow parameters.

    Returns:
        A TrainState with a NamedSharding per array.
    """
    whole = NamedSharding(mesh, P())
    params = param_shardings(mesh, abstract_state.params, logical_axes)
    opt_state = optax.tree.map_params(
        init_optimizer,
        lambda _, placement: placement,
        abstract_state.opt_state,
        params,
        transform_non_params=lambda _: whole,
    )
    return type(abstract_state)(
        step=whole,
        params=params,
        ema=dict.fromkeys(abstract_state.ema, params),
        opt_state=opt_state,
        timestep_state=jax.tree.map(lambda _: whole, abstract_state.timestep_state),
    )


def rows_over(mesh: Mesh) -> Callable[[jax.Array], jax.Array] | None:
    """Return a function that keeps activations where the rows of the batch are.

    Parameters that are cut over ``fsdp`` meet activations whose rows are cut over the same devices.
    Left to itself, XLA may cut the features and give every device all rows; with this, parameters
    are gathered when they are needed, which is what the axis is for.

    Args:
        mesh: the devices.

    Returns:
        A function of arrays [B, ...] that returns them with their rows over ``data`` and ``fsdp``;
        None on a single device.
    """
    if mesh.devices.size == 1:
        return None
    placement = batch_sharding(mesh)
    return lambda x: jax.lax.with_sharding_constraint(x, placement)


def abstract_with_shardings(abstract_state: Any, shardings: Any) -> Any:
    """Attach placements to shapes: the template from which a checkpoint is restored in place."""
    return jax.tree.map(
        lambda leaf, placement: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement),
        abstract_state,
        shardings,
    )


def create_state(make_state: Callable[[jax.Array], Any], key: jax.Array, shardings: Any) -> Any:
    """Create a state where it will live, so that no device ever holds more than its part.

    Args:
        make_state: typed key -> TrainState.
        key: consumed.
        shardings: as from ``state_shardings``.
    """
    return jax.jit(make_state, out_shardings=shardings)(key)


def jit_train_step(
    step: Callable[..., Any], mesh: Mesh, shardings: Any, frozen: Any = None
) -> Callable[..., Any]:
    """Compile a training step for a mesh.

    The state is donated: its buffers are reused for the new state, and the old one must not be read
    again.

    Args:
        step: (state, batch, root_key) -> (state, metrics), see ``train.step``.
        mesh: the devices.
        shardings: of the state, as from ``state_shardings``.
        frozen: parameters on the devices that the step is given besides and does not change.

    Returns:
        The compiled function of (state, batch, root_key); metrics are whole on every device.
    """
    whole = NamedSharding(mesh, P())
    given = () if frozen is None else (jax.tree.map(lambda array: array.sharding, frozen),)
    compiled = jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh), whole, *given),
        out_shardings=(shardings, whole),
        donate_argnums=0,
    )
    if frozen is None:
        return compiled
    # An argument and no constant: a constant would be part of the program's text.
    return lambda state, batch, root_key: compiled(state, batch, root_key, frozen)
