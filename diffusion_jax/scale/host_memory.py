"""How the process holds memory, for programs that are compiled for the CPU."""

import ctypes
import platform

# Of <malloc.h> in the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, to be used again; for the GNU C library only.

    A compiled program asks for its temporary arrays anew at every call. Where they are large the
    allocator maps them from the operating system and gives them back each time, and every page is
    cleared when it is first touched: a quarter of a small training step
    (``benchmarks/results/quickstart.md``). Afterwards the process keeps what it once held, so this
    is for programs whose work is here, not for a library to do to its users.

    Returns:
        Whether the allocator could be told.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
