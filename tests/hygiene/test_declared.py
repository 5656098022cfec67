"""What is used is written down: dependencies in pyproject.toml, recorded data in its README."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "golden" / "data"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Import names that are not the name of their distribution.
DISTRIBUTIONS = {"orbax": "orbax_checkpoint"}


def declared() -> set[str]:
    """Return the distributions that the project or one of its extras asks for."""
    extras = PROJECT["optional-dependencies"].values()
    wanted = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return {re.match(r"[\w-]+", line).group().lower().replace("-", "_") for line in wanted}


def third_party_imports() -> set[str]:
    """Return the top-level packages that the package imports, wherever it does so."""
    names = set()
    for path in (ROOT / "diffusion_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names) - {"diffusion_jax"}


def test_every_import_is_declared():
    used = {DISTRIBUTIONS.get(name, name).lower() for name in third_party_imports()}
    assert len(used) > 8
    assert used <= declared()


@pytest.mark.parametrize("path", sorted(DATA.glob("*.*")), ids=lambda p: p.name)
def test_recorded_data_has_an_origin(path):
    assert path.name == "README.md" or f"`{path.name}`" in (DATA / "README.md").read_text(
        encoding="utf-8"
    )


def test_the_originals_are_named_with_their_commits():
    text = (DATA / "README.md").read_text(encoding="utf-8")
    for commit in ("759889d", "f78945d", "3b71ccc"):
        assert f"`{commit}`" in text
