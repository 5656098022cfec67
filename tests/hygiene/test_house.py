"""Habits that keep the project readable and installable, checked so that nobody need remember."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "diffusion_jax"
SOURCES = sorted(
    path
    for room in ("diffusion_jax", "experiments", "benchmarks", "tests")
    for path in (ROOT / room).rglob("*.py")
)


def test_files_stay_small_enough_to_hold_in_the_head():
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in SOURCES}
    assert not {name: count for name, count in lines.items() if count > 400}


def test_no_private_jax():
    needle = re.compile(r"\bjax\._src|\bflax\.\w*\._|orbax\.\S*\._")
    offenders = [p for p in SOURCES if p.name != "test_house.py" and needle.search(p.read_text())]
    assert not offenders


def test_every_package_has_an_init():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_help_does_not_import_jax():
    code = (
        "import sys; from diffusion_jax.cli import main; main(['--help'])\n"
        "from diffusion_jax.cli import COMMANDS\n"
        "for c in COMMANDS:\n"
        "    try: main([c, '--help'])\n"
        "    except SystemExit: pass\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules, 'heavy imports'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda p: p.name)
def test_experiments_say_what_they_cost(path):
    """Each experiment's docstring names command, data, hardware, time and the published numbers."""
    text = path.read_text(encoding="utf-8").split('"""')[1]
    for word in ("Command:", "Data:", "Hardware:", "Time:", "Published:"):
        assert word in text, f"{path.name} does not state {word}"
