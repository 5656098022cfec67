"""How the process holds memory: what the allocator is told, and when the program starts again."""

import os
import platform
import subprocess
import sys

import pytest

from diffusion_jax.scale import host_memory

MODE = "always [madvise] never"


@pytest.fixture
def restarts(monkeypatch, tmp_path):
    """Record restarts instead of making them, on a machine where they would help."""
    made = []
    monkeypatch.setattr(os, "execve", lambda *call: made.append(call))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "-m", "diffusion_jax", "train"])
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(host_memory, "_KERNEL_MODE", tmp_path / "enabled")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    (tmp_path / "enabled").write_text(MODE)
    return made


def test_the_same_command_starts_again(restarts, monkeypatch):
    monkeypatch.setenv("SOMETHING", "else")
    host_memory.restart_with_huge_pages()
    [(program, arguments, environment)] = restarts
    assert program == arguments[0] == sys.executable
    assert arguments[1:] == ["-X", "dev", "-m", "diffusion_jax", "train"]
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert environment["SOMETHING"] == "else"


def test_other_settings_of_the_user_stay(restarts, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    host_memory.restart_with_huge_pages()
    assert restarts[0][2]["GLIBC_TUNABLES"] == "glibc.malloc.check=0:glibc.malloc.hugetlb=1"


@pytest.mark.parametrize("value", ["0", "1"])
def test_a_choice_of_the_user_and_the_second_start_are_left_alone(restarts, monkeypatch, value):
    monkeypatch.setenv("GLIBC_TUNABLES", f"glibc.malloc.hugetlb={value}")
    host_memory.restart_with_huge_pages()
    assert restarts == []


@pytest.mark.parametrize("libc", [("", ""), ("glibc", "2.34"), ("glibc", "2.4")])
def test_nothing_starts_again_without_an_allocator_that_can(restarts, monkeypatch, libc):
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    host_memory.restart_with_huge_pages()
    assert restarts == []


@pytest.mark.parametrize("mode", ["[always] madvise never", "always madvise [never]", None])
def test_nothing_starts_again_where_the_kernel_has_decided(restarts, tmp_path, mode):
    (tmp_path / "enabled").unlink()
    if mode:
        (tmp_path / "enabled").write_text(mode)
    host_memory.restart_with_huge_pages()
    assert restarts == []


def test_the_program_is_the_same_process_with_the_same_arguments(tmp_path):
    """For real, where this machine can; elsewhere the first start is the only one."""
    script = tmp_path / "program.py"
    script.write_text(
        "import os, sys\n"
        "from diffusion_jax.scale.host_memory import restart_with_huge_pages\n"
        "print(os.getpid(), sys.argv[1:], flush=True)\n"
        "restart_with_huge_pages()\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    told = subprocess.run(
        [sys.executable, script, "a b", "--c"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = told.stdout.splitlines()
    assert len(lines) == (2 if host_memory._gives_huge_pages() else 1)
    assert len(set(lines)) == 1
    assert lines[0].endswith("['a b', '--c']")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for the GNU C library")
def test_freed_memory_is_kept(tmp_path):
    """Freed blocks of a megabyte stay resident: using them again faults no page."""
    script = tmp_path / "program.py"
    script.write_text(
        "import ctypes, resource\n"
        "from diffusion_jax.scale.host_memory import keep_freed_memory\n"
        "assert keep_freed_memory()\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]\n"
        "faults = []\n"
        "for _ in range(5):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    block = libc.malloc(8 << 20)\n"
        "    ctypes.memset(block, 1, 8 << 20)\n"
        "    libc.free(block)\n"
        "    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
        "assert faults[0] > 1000, faults\n"
        "assert max(faults[1:]) < 100, faults\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["GLIBC_TUNABLES"] = ""
    subprocess.run([sys.executable, script], env=environment, check=True)
