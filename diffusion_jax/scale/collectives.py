"""What devices say to each other in one run of a compiled program: how often, to whom, how much."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffusion_jax.scale.hlo import Computation, Executed, Instruction, Module, parse_hlo

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Collective:
    """One collective operation of a compiled program.

    Attributes:
        kind: one of KINDS.
        times: how often a run of the program executes it.
        payload_bytes: bytes on one device of the whole value: what is reduced, or what it is after
            gathering, before scattering.
        groups: the devices that talk to each other, by their position in the mesh.
        shapes: what goes in, as ``dtype[sizes]``.
        op_name: where in the traced program it comes from.
        certain: False where the length of a loop around it is unknown (counted once).
    """

    kind: str
    times: int
    payload_bytes: int
    groups: Groups
    shapes: tuple[str, ...]
    op_name: str
    certain: bool = True

    @property
    def group_size(self) -> int:
        """Return how many devices take part in one exchange."""
        return max(map(len, self.groups), default=1)

    @property
    def sent_bytes(self) -> float:
        """Return the bytes that one device sends in one execution, by the ring algorithms.

        Those are bandwidth-optimal (Patarasu and Yuan 2009): (n-1)/n of the value to gather, to
        scatter or to exchange, twice that to reduce.
        """
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.payload_bytes)
        share = (self.group_size - 1) / self.group_size
        return self.payload_bytes * share * (2 if self.kind == "all-reduce" else 1)

    def axes(self, mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
        """Return the mesh axes along which the groups lie; () where they follow none.

        Args:
            mesh_shape: sizes by name, in the mesh's order (``mesh.shape``).
        """
        sizes = tuple(mesh_shape.values())
        if not self.groups or math.prod(sizes) <= max(map(max, self.groups)):
            return ()
        members = np.stack(np.unravel_index(np.asarray(self.groups[0]), sizes))
        varies = [name for name, row in zip(mesh_shape, members) if len(set(row.tolist())) > 1]
        spanned = math.prod(mesh_shape[name] for name in varies)
        return tuple(varies) if spanned == len(self.groups[0]) else ()


def collectives(program: str | Module) -> list[Collective]:
    """Return every collective operation of a compiled program.

    An operation that XLA overlaps with computation appears in the text several times (started,
    continued, finished) under one channel; it is returned once. A sum of which each device keeps
    its part is a "reduce-scatter", also where the TPU's compiler spells it as a fused all-reduce.

    Args:
        program: ``compiled.as_text()``, or what ``parse_hlo`` made of it.

    Returns:
        In the order of the text; operations among single devices are left out.
    """
    module = parse_hlo(program) if isinstance(program, str) else program
    found: dict[Any, Collective] = {}
    for executed in module.executed():
        for instruction in executed.computation.instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            new = _collective(module, executed, instruction, kind)
            if new.group_size == 1:
                continue
            channel = instruction.attribute("channel_id") or instruction.name
            old = found.get(channel)
            found[channel] = replace(new, times=max(new.times, old.times)) if old else new
    return list(found.values())


def summary(
    items: Sequence[Collective], mesh_shape: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """Add up collectives of one kind over one set of devices, for a table or a golden file.

    Args:
        items: as from ``collectives``.
        mesh_shape: where given, groups are named by mesh axes instead of by their size.

    Returns:
        One record per kind and group, sorted: ``kind``, ``over``, ``operations`` in the text,
        ``times`` they run, ``payload_bytes`` and ``sent_bytes`` per device in all.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = defaultdict(
        lambda: {"operations": 0, "times": 0, "payload_bytes": 0, "sent_bytes": 0}
    )
    for item in items:
        axes = item.axes(mesh_shape) if mesh_shape else ()
        over = "+".join(axes) or f"{item.group_size} devices"
        row = rows[item.kind, over]
        row["operations"] += 1
        row["times"] += item.times
        row["payload_bytes"] += item.times * item.payload_bytes
        row["sent_bytes"] += round(item.times * item.sent_bytes)
    return [{"kind": kind, "over": over, **rows[kind, over]} for kind, over in sorted(rows)]


def _collective(
    module: Module, executed: Executed, instruction: Instruction, kind: str
) -> Collective:
    here = executed.computation
    groups = _groups(instruction, module.num_partitions)
    shapes = [shape for name in instruction.operands for shape in _operand(here, name).shapes]
    payload = sum(shape.nbytes for shape in shapes)
    if kind == "all-gather":
        payload *= max(map(len, groups), default=1)
    if kind == "all-reduce" and here.name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    source = re.search(r'op_name="([^"]*)"', instruction.text)
    return Collective(
        kind=kind,
        times=executed.times,
        payload_bytes=payload,
        groups=groups,
        shapes=tuple(f"{s.dtype}[{','.join(map(str, s.dims))}]" for s in shapes),
        op_name=source[1] if source else "",
        certain=executed.certain,
    )


def _operand(computation: Computation, name: str) -> Instruction:
    return computation.instructions[name]


def _groups(instruction: Instruction, num_partitions: int) -> Groups:
    """Read the groups of devices in any of the notations that XLA prints."""
    text = instruction.text
    pairs = re.search(r"source_target_pairs=\{(\{[^=]*?\})\}", text)
    if pairs:
        moved = [pair for pair in _braced(pairs[1]) if pair[0] != pair[1]]
        return tuple(moved) if moved else ((0,),)
    found = re.search(r"replica_groups=(.*)", text)
    if not found:
        return (tuple(range(num_partitions)),)
    if found[1].startswith("mesh["):
        return _mesh_groups(found[1])
    if found[1].startswith("{"):
        listed = re.match(r"\{((?:\{[\d,]*\},?)*)\}", found[1])
        groups = _braced(listed[1]) if listed else ()
        return groups or (tuple(range(num_partitions)),)
    iota = re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", found[1])
    if not iota:
        raise ValueError(f"replica groups in an unknown notation: {found[1][:80]}")
    rows = _iota(iota[2], iota[3]).reshape(_numbers(iota[1]))
    return _as_groups(rows.reshape(-1, rows.shape[-1]))


def _mesh_groups(text: str) -> Groups:
    """Read ``mesh['a'=2,'b'=4], device_ids=([8]T(0)) {'b'}``: groups along named axes."""
    header = re.match(r"mesh\[(.*?)\]", text)
    if header is None:
        raise ValueError(f"replica groups in an unknown notation: {text[:80]}")
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", header[1])}
    names = re.search(r"\{('[^}]*)\}", text)
    order = re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", text)
    listed = re.search(r"device_ids=\(([\d,]+)\)", text)
    total = math.prod(sizes.values())
    if listed:
        devices = np.asarray(_numbers(listed[1]))
    elif order:
        devices = _iota(order[1], order[2])
    else:
        devices = np.arange(total)
    # An axis may be cut into (before, size, after), of which the groups span the middle.
    wanted = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", names[1]) if names else []
    parts = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in wanted}
    dims, inside = [], []
    for name, size in sizes.items():
        before, middle = parts.get(name, (size, 1))
        dims += [before, middle, size // (before * middle)]
        inside.append(len(dims) - 2)
    grid = devices.reshape(dims)
    outside = [i for i in range(len(dims)) if i not in inside]
    rows = grid.transpose(outside + inside).reshape(
        math.prod(dims[i] for i in outside), math.prod(dims[i] for i in inside)
    )
    return _as_groups(rows)


def _iota(sizes: str, order: str | None) -> np.ndarray:
    """Return the numbers from 0 in a grid, its dimensions put in another order, in a row."""
    shape = _numbers(sizes)
    grid = np.arange(math.prod(shape)).reshape(shape)
    return (grid.transpose(_numbers(order)) if order else grid).ravel()


def _braced(text: str) -> Groups:
    return tuple(_numbers(group) for group in re.findall(r"\{([\d,]+)\}", text))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _as_groups(rows: np.ndarray) -> Groups:
    return tuple(tuple(int(i) for i in row) for row in rows)
