"""How the process holds memory, for programs that are compiled for the CPU.

A compiled program asks for its temporary arrays anew at every call. Where they are large, the GNU
C library maps them from the operating system and gives them back each time, and every page of 4 kB
is cleared when it is first touched: up to a quarter of a training step (``docs/training.md``).
"""

import ctypes
import os
import platform
import sys
from pathlib import Path

# Of <malloc.h> in the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb"
_SINCE = (2, 35)
_KERNEL_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_memory_well() -> None:
    """Do both for a program, before it computes: huge pages, and freed memory kept."""
    restart_with_huge_pages()
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, to be used again; for the GNU C library only.

    It serves arrays below 64 MB, as larger ones do not fit into the heap of a thread. Afterwards
    the process keeps what it once held, so this is for programs whose work is here, not for a
    library to do to its users.

    Returns:
        Whether the allocator could be told.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


def restart_with_huge_pages() -> None:
    """Start the program again, in this process, with an allocator that asks for pages of 2 MB.

    The allocator reads its settings when a program begins, so there is no other way. Nothing is
    done where it would not help: without the GNU C library 2.35 or later, where the kernel gives
    huge pages to all or to nobody, and where ``GLIBC_TUNABLES`` says anything about them already
    (``glibc.malloc.hugetlb=0`` refuses).
    """
    settings = os.environ.get(TUNABLES, "")
    if HUGE_PAGES in settings or not _gives_huge_pages():
        return
    settings = ":".join(part for part in (settings, f"{HUGE_PAGES}=1") if part)
    # The same process: its number, its files and its signals stay what they are.
    os.execve(
        sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, TUNABLES: settings}
    )


def _gives_huge_pages() -> bool:
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) < _SINCE:
        return False
    try:
        return "[madvise]" in _KERNEL_MODE.read_text()
    except OSError:
        return False
