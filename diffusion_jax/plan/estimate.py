"""From what a compiler says to time: the roofline (Williams et al. 2009), and what to change."""

from typing import NamedTuple

from diffusion_jax.plan.chips import Chip
from diffusion_jax.plan.compiled import Compiled

SECONDS_PER_DAY = 86_400


class Roofline(NamedTuple):
    """How long one run of a program takes at the chip's peaks, in seconds.

    Attributes:
        compute: matrix products at the bfloat16 peak, split evenly over the chips.
        memory: the bytes that must be read and written at the memory's bandwidth.
        links: the bytes that a chip must send at the bandwidth of all its links.
        overlapped: the longest of the three: all of them at once.
        serial: their sum: one after the other.
        bound_by: which is the longest.
    """

    compute: float
    memory: float
    links: float
    overlapped: float
    serial: float
    bound_by: str


def roofline(compiled: Compiled, chip: Chip, num_chips: int) -> Roofline | None:
    """Return the roofline of a compiled program, or None where it did not compile."""
    if compiled.memory_traffic is None or compiled.sent_bytes is None:
        return None
    parts = {
        "compute": compiled.flops / num_chips / chip.peak,
        "memory": compiled.memory_traffic / chip.memory_bandwidth,
        "links": compiled.sent_bytes / chip.link_bandwidth,
    }
    bound_by = max(parts, key=lambda name: parts[name])
    return Roofline(**parts, overlapped=parts[bound_by], serial=sum(parts.values()),
                    bound_by=bound_by)  # fmt: skip


def within(compiled: Compiled, memory: float) -> bool:
    """Return whether a program was compiled and holds no more than ``memory`` bytes a device."""
    return compiled.fits and compiled.peak_bytes is not None and compiled.peak_bytes <= memory


def advice(compiled: Compiled, memory: float, *, remat: str, fsdp: int, num_chips: int) -> str:
    """Say what to change where a training step does not fit, or "" where it does.

    Args:
        compiled: the step.
        memory: bytes of a chip.
        remat: its rematerialisation policy.
        fsdp: its fsdp axis.
        num_chips: how long that axis can be: chips over the tensor axis.
    """
    if within(compiled, memory):
        return ""
    steps = []
    state = compiled.argument_bytes
    longer = [n for n in range(fsdp + 1, num_chips + 1) if num_chips % n == 0]
    longer = [n for n in longer if n <= 4 * fsdp] or longer[:1]
    if longer and (state is None or state > memory / 2):
        steps.append(f"--mesh.fsdp {longer[-1]} --mesh.data -1 (cut the state into more pieces)")
    if remat != "full":
        steps.append("--model.remat full (keep less for the backward pass)")
    steps.append("more --train.microbatches (fewer rows at a time)")
    if fsdp >= num_chips and state is not None and state > memory:
        steps.append("more chips")
    return "does not fit; try " + ", or ".join(steps)
