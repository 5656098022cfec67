"""What is inside a checkpoint: the parts of a state, their checksums, and a sealed JSON record."""

import dataclasses
import hashlib
import json
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from diffusion_jax.errors import UserError
from diffusion_jax.scale.checksum import tree_checksum

CHECKSUMS = "checksums"


class DamagedCheckpointError(Exception):
    """Report a checkpoint that cannot be read, or that reads as something else than was written."""


class MismatchError(UserError):
    """Report a checkpoint whose arrays do not fit the model that asks for them."""


def split(state: Any) -> dict[str, Any]:
    """Return the fields of a state (a dataclass) by name."""
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def named_parts(parts: dict[str, Any]) -> dict[str, Any]:
    """Give every separately readable part a name: the averages become ``"ema RATE"``."""
    named = {name: part for name, part in parts.items() if name not in ("ema", CHECKSUMS)}
    return {**named, **{f"ema {rate}": part for rate, part in parts.get("ema", {}).items()}}


def checksums(parts: dict[str, Any]) -> dict[str, jax.Array]:
    """Return the checksum of every named part."""
    return {name: tree_checksum(part) for name, part in named_parts(parts).items()}


def verify(parts: dict[str, Any], expected: dict[str, jax.Array]) -> None:
    """Raise DamagedCheckpointError unless every part has the checksum saved with it."""
    for name, part in named_parts(parts).items():
        if name not in expected:
            raise DamagedCheckpointError(f"the checksum of {name!r} is missing")
        verify_part(name, part, expected[name])


def verify_part(name: str, part: Any, expected: jax.Array) -> None:
    """Raise DamagedCheckpointError unless one part has the checksum saved with it."""
    if int(tree_checksum(part)) != int(expected):
        raise DamagedCheckpointError(f"the numbers of {name!r} are not those that were saved")


def seal(record: dict[str, Any]) -> dict[str, Any]:
    """Wrap a JSON record with a digest of itself."""
    return {"record": record, "sha256": _digest(record)}


def unseal(sealed: Any) -> dict[str, Any]:
    """Return the record of ``seal``; raise DamagedCheckpointError when it is not as written."""
    if not isinstance(sealed, dict) or sealed.get("sha256") != _digest(sealed.get("record")):
        raise DamagedCheckpointError("its JSON record is not the one that was saved")
    return sealed["record"]


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def requested(tree: Any, shardings: Any = None) -> Any:
    """Turn arrays or descriptions of arrays into a template for reading.

    Args:
        tree: pytree of anything with a shape and a dtype.
        shardings: pytree of placements; default that of each leaf, else the first device.
    """
    # The first device of this process: other processes' devices cannot be written to from here.
    default = SingleDeviceSharding(jax.local_devices()[0])

    def describe(leaf: Any, placement: Any = None) -> jax.ShapeDtypeStruct:
        placement = placement or getattr(leaf, "sharding", None) or default
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement)

    if shardings is None:
        return jax.tree.map(describe, tree)
    return jax.tree.map(describe, tree, shardings)


def request_only(which: str, stored: dict[str, Any], shardings: Any = None) -> dict[str, Any]:
    """Build a template that reads one named part and its checksum, and skips all other arrays."""
    available = {
        name: part
        for name, part in named_parts(stored).items()
        if name == "params" or name.startswith("ema ")
    }
    if which not in available:
        raise MismatchError(f"it holds no {which!r}; choose one of {sorted(available)}")
    template = jax.tree.map(lambda _: ocp.PLACEHOLDER, stored)
    wanted = requested(without_placement(available[which]), shardings)
    if which == "params":
        template["params"] = wanted
    else:
        template["ema"][which.removeprefix("ema ")] = wanted
    template[CHECKSUMS][which] = requested(without_placement(stored[CHECKSUMS][which]))
    return template


def request_part(name: str, stored: dict[str, Any], abstract: Any) -> dict[str, Any]:
    """Build a template that reads one field of the state and its checksum, and skips the rest.

    Raises:
        MismatchError: the field is absent, or its arrays have other shapes.
    """
    wanted = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(abstract)]
    found = [(tuple(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(stored.get(name, ()))]
    if sorted(map(str, wanted)) != sorted(map(str, found)):
        raise MismatchError(
            f"its {name} holds arrays {found}, not {wanted}; it was made with another configuration"
        )
    template = jax.tree.map(lambda _: ocp.PLACEHOLDER, stored)
    template[name] = requested(abstract)
    template[CHECKSUMS][name] = requested(without_placement(stored[CHECKSUMS][name]))
    return template


def without_placement(stored: Any) -> Any:
    """Forget where arrays lay when they were saved: this machine may have other devices."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stored)


def check_fits(template: dict[str, Any], stored: dict[str, Any]) -> None:
    """Raise MismatchError unless the stored parameters and averages have the template's shapes.

    The other parts follow from these two and from the optimiser; what is wrong with them shows when
    they are read.
    """
    for name in named_parts(template):
        if name not in named_parts(stored):
            raise MismatchError(f"it holds no {name!r}; it has {sorted(named_parts(stored))}")
    wanted, found = (_shapes(named_parts(tree)) for tree in (template, stored))
    for path in sorted(wanted.keys() | found.keys()):
        if wanted.get(path) != found.get(path):
            raise MismatchError(
                f"{path} is {found.get(path, 'absent')} in the checkpoint and "
                f"{wanted.get(path, 'absent')} in the model; it was made with another configuration"
            )


def _shapes(parts: dict[str, Any]) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(
        {name: part for name, part in parts.items() if name == "params" or name.startswith("ema ")}
    )
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
