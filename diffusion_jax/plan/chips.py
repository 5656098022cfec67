"""Chips and how they are named: capacities from their makers' public pages, and topologies.

Peaks are those of dense bfloat16 products; bandwidths are bytes per second; ``link_bandwidth`` is
what one chip can send to all its neighbours together, in one direction.
"""

import re
from typing import NamedTuple

from diffusion_jax.errors import UserError


class Chip(NamedTuple):
    """One accelerator.

    Attributes:
        name: as its maker calls it.
        platform: "tpu" or "gpu".
        memory: bytes.
        peak: operations per second, bfloat16.
        memory_bandwidth: bytes per second to its memory.
        link_bandwidth: bytes per second that it can send to its neighbours.
        dims: dimensions of its topology.
        source: where the figures are published.
    """

    name: str
    platform: str
    memory: float
    peak: float
    memory_bandwidth: float
    link_bandwidth: float
    dims: int
    source: str


_CLOUD = "cloud.google.com/tpu/docs/"
_NVIDIA = "nvidia.com/en-us/data-center/"

CHIPS = {
    "v4": Chip("TPU v4", "tpu", 32 * 2**30, 275e12, 1200e9, 300e9, 3, _CLOUD + "v4"),
    "v5e": Chip("TPU v5e", "tpu", 16e9, 197e12, 819e9, 200e9, 2, _CLOUD + "v5e"),
    "v5p": Chip("TPU v5p", "tpu", 95e9, 459e12, 2765e9, 600e9, 3, _CLOUD + "v5p"),
    "v6e": Chip("TPU v6e", "tpu", 32e9, 918e12, 1600e9, 400e9, 2, _CLOUD + "v6e"),
    "a100": Chip("A100 SXM 80GB", "gpu", 80e9, 312e12, 2039e9, 300e9, 1, _NVIDIA + "a100"),
    "h100": Chip("H100 SXM", "gpu", 80e9, 989e12, 3350e9, 450e9, 1, _NVIDIA + "h100"),
}


class Topology(NamedTuple):
    """Chips of one kind, wired together.

    Attributes:
        name: as given, lower case.
        kind: key of CHIPS.
        sizes: chips along each dimension.
        num_chips: their product.
    """

    name: str
    kind: str
    sizes: tuple[int, ...]
    num_chips: int

    @property
    def chip(self) -> Chip:
        """Return the chip's capacities."""
        return CHIPS[self.kind]


def parse_topology(text: str) -> Topology:
    """Read "v5e:4x4", "v5p:8x8x8", "h100:8" or "gpu:8" (which stands for H100s).

    Raises:
        UserError: anything else; says what there is.
    """
    name = text.strip().lower()
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    known = ", ".join(f"{kind}:{'x'.join(['4'] * chip.dims)}" for kind, chip in CHIPS.items())
    if not found:
        raise UserError(f"topology {text!r} is not KIND:SIZES; examples: {known}, gpu:8")
    kind = {"gpu": "h100", "v5litepod": "v5e"}.get(found[1], found[1])
    if kind not in CHIPS:
        raise UserError(f"topology {text!r}: unknown chip {found[1]!r}; there are {known}, gpu:8")
    sizes, chip = tuple(map(int, found[2].split("x"))), CHIPS[kind]
    if len(sizes) != chip.dims or min(sizes) < 1:
        example = f"{kind}:{'x'.join(['4'] * chip.dims)}"
        raise UserError(
            f"topology {text!r}: {chip.name} takes {chip.dims} sizes of at least 1, as {example}"
        )
    total = 1
    for size in sizes:
        total *= size
    return Topology(name, kind, sizes, total)
