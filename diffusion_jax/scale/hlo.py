"""Read a compiled program: its computations, its loops, and how often each of them runs.

XLA's own cost analysis counts the body of a loop once. Here the text of the compiled program
(``compiled.as_text()``) is read, so that what stands in a loop is counted as often as it runs.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.$-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.$-]+) = (.*)$")
_OPCODE = re.compile(r"\s([a-z][a-z0-9-]*)\(")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|true_computation|false_computation)="
    r"(\{[^}]*\}|%?[\w.$-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# The later parts of an operation that was started elsewhere name its computation once more.
_CONTINUED = ("async-update", "async-done")


@dataclass(frozen=True)
class ArrayShape:
    """One array of an instruction's result.

    Attributes:
        dtype: as XLA spells it, e.g. "bf16".
        dims: sizes of the dimensions.
        space: memory space, 0 being the device's main memory (on a TPU, 1 is on the chip).
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        """Return the number of elements."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all elements, without padding."""
        return -(-self.size * bits(self.dtype) // 8)


@dataclass(frozen=True)
class Instruction:
    """One instruction of a computation.

    Attributes:
        name: unique in the program.
        opcode: e.g. "all-gather".
        shapes: the arrays of the result (several where it is a tuple).
        operands: names of the instructions it reads.
        called: attribute (calls, body, condition, ...) to the computations it names.
        text: the whole line after the equals sign, for what is not parsed here.
        root: whether it is the result of its computation.
    """

    name: str
    opcode: str
    shapes: tuple[ArrayShape, ...]
    operands: tuple[str, ...]
    called: Mapping[str, tuple[str, ...]]
    text: str
    root: bool

    @property
    def nbytes(self) -> int:
        """Return the bytes of the result."""
        return sum(shape.nbytes for shape in self.shapes)

    def attribute(self, name: str) -> str:
        """Return the text of an attribute up to the next comma or space, or ""."""
        found = re.search(rf"\b{name}=([^,\s]+)", self.text)
        return found[1] if found else ""


@dataclass
class Computation:
    """A named list of instructions: the entry, the body of a loop, a fusion.

    Attributes:
        name: unique in the program.
        instructions: in order, by name.
    """

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction | None:
        """Return the instruction whose value is the computation's."""
        return next((i for i in self.instructions.values() if i.root), None)


@dataclass(frozen=True)
class Executed:
    """A computation and how often a run of the program executes it.

    Attributes:
        computation: which.
        times: executions, the trip counts of all loops around it multiplied.
        fused: whether it is the inside of a fusion, whose values never reach memory.
        certain: False where a loop around it says nothing about its length (taken as 1).
    """

    computation: Computation
    times: int
    fused: bool
    certain: bool


@dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
        computations: by name.
        entry: name of the one that runs.
        num_partitions: devices that the program was cut for.
    """

    computations: Mapping[str, Computation]
    entry: str
    num_partitions: int

    def executed(self) -> list[Executed]:
        """Return every computation that runs, with the number of times."""
        counts: dict[str, Executed] = {}
        for item in self._walk(self.entry, 1, False, True):
            old = counts.get(item.computation.name)
            if old:
                item = Executed(
                    item.computation,
                    old.times + item.times,
                    old.fused and item.fused,
                    old.certain and item.certain,
                )
            counts[item.computation.name] = item
        return list(counts.values())

    def _walk(self, name: str, times: int, fused: bool, certain: bool) -> Iterator[Executed]:
        computation = self.computations[name]
        yield Executed(computation, times, fused, certain)
        for instruction in computation.instructions.values():
            if instruction.opcode in _CONTINUED or not instruction.called:
                continue
            inner_times, known = times, certain
            if instruction.opcode == "while":
                trips = self.trip_count(computation, instruction)
                known = certain and trips is not None
                inner_times = times * (1 if trips is None else trips)
            is_fusion = fused or instruction.opcode == "fusion"
            for attribute, names in instruction.called.items():
                # What a reduction applies to pairs of elements is no program of its own.
                if attribute == "to_apply" and instruction.opcode != "call":
                    continue
                for inner in names:
                    yield from self._walk(inner, inner_times, is_fusion, known)

    def trip_count(self, computation: Computation, loop: Instruction) -> int | None:
        """Return how often a loop runs, or None where the program does not say.

        XLA notes it for most backends; the TPU's text only has the comparison that ends the loop.
        """
        noted = _TRIPS.search(loop.text)
        if noted:
            return int(noted[1])
        (condition,) = loop.called.get("condition", ("",))
        root = self.computations[condition].root if condition in self.computations else None
        if root is None:
            return None
        inside = self.computations[condition].instructions
        if root.opcode == "fusion":
            # The comparison of a fused condition has the fusion's operands for its own.
            (fused,) = root.called["calls"]
            compare = self.computations[fused].root
        else:
            compare = root
        if compare is None or compare.opcode != "compare" or "direction=LT" not in compare.text:
            return None
        limits = [_constant(inside[name]) for name in root.operands if name in inside]
        limit = next((value for value in limits if value is not None), None)
        counter = next(inside[name] for name in root.operands if _constant(inside[name]) is None)
        start = self._initial(computation, loop, counter)
        return None if limit is None or start is None else max(0, limit - start)

    def _initial(
        self, computation: Computation, loop: Instruction, counter: Instruction
    ) -> int | None:
        """Return the value with which a loop's counter begins (0 where it is not a constant)."""
        if counter.opcode != "get-tuple-element":
            return None
        index = int(counter.attribute("index"))
        carry = computation.instructions.get(loop.operands[0])
        if carry is None or carry.opcode != "tuple" or index >= len(carry.operands):
            return 0
        start = computation.instructions.get(carry.operands[index])
        while start is not None and start.opcode in ("copy", "bitcast", "convert"):
            start = computation.instructions.get(start.operands[0])
        value = None if start is None else _constant(start)
        return 0 if value is None else value


def bits(dtype: str) -> int:
    """Return the size of one element in bits, from XLA's name of its type."""
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.match(r"[a-z]+(\d+)", dtype)
    return int(digits[1]) if digits else 0


def parse_hlo(text: str) -> Module:
    """Read the text of a compiled program, as ``compiled.as_text()`` gives it.

    Raises:
        ValueError: it has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if not line.startswith(" "):
            header = _COMPUTATION.match(line)
            if header:
                current = computations.setdefault(header[2], Computation(header[2]))
                entry = header[2] if header[1] else entry
            continue
        found = _INSTRUCTION.match(line)
        if found and current is not None:
            instruction = _instruction(found[2], found[3], bool(found[1]))
            if instruction:
                current.instructions[instruction.name] = instruction
    if not entry:
        raise ValueError("the text has no ENTRY computation; give compiled.as_text()")
    partitions = re.search(r"num_partitions=(\d+)", text.split("\n", 1)[0])
    return Module(computations, entry, int(partitions[1]) if partitions else 1)


def _instruction(name: str, text: str, root: bool) -> Instruction | None:
    opcode = _OPCODE.search(text)
    if not opcode:
        return None
    operands, end = _parenthesised(text, opcode.end())
    called = {
        key: tuple(part.strip().lstrip("%") for part in names.strip("{}").split(","))
        for key, names in _CALLED.findall(text[end:])
    }
    names = tuple(re.findall(r"%([\w.$-]+)", operands))
    if opcode[1] == "constant":
        names = ()
    shapes = tuple(
        ArrayShape(dtype, _dims(dims), _space(layout))
        for dtype, dims, layout in _ARRAY.findall(text[: opcode.start()])
    )
    return Instruction(name, opcode[1], shapes, names, called, text, root)


def _parenthesised(text: str, start: int) -> tuple[str, int]:
    """Return what stands up to the parenthesis that closes the one before ``start``."""
    depth = 1
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return text[start:i], i
    return text[start:], len(text)


def _dims(text: str) -> tuple[int, ...]:
    return tuple(int(part.lstrip("<=")) for part in text.split(",") if part)


def _space(layout: str) -> int:
    found = re.search(r"S\((\d+)\)", layout)
    return int(found[1]) if found else 0


def _constant(instruction: Instruction) -> int | None:
    found = re.search(r"constant\((-?\d+)\)", instruction.text)
    return int(found[1]) if found and instruction.opcode == "constant" else None
