"""The doors between the rooms open one way (CONTRIBUTING.md has the table)."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "diffusion_jax"

# A module may import from its own layer and from lower numbers. The longest matching prefix counts.
LAYERS = {
    "version": 0,
    "errors": 0,
    "fields": 0,
    "types": 0,
    "keys": 0,
    "schedules": 0,
    "forward": 0,
    "rounding": 0,
    "adaptive": 1,
    "timesteps": 1,
    "losses": 1,
    "samplers": 1,
    "guidance": 1,
    "mbr": 1,
    "models": 2,
    "text": 2,
    "config": 3,
    "config_io": 3,
    "workdir": 3,
    "scale": 3,
    "train": 3,
    "evaluate": 3,
    "convert": 3,
    "chain": 3,
    "sweep": 4,
    "plan": 4,
    "generate": 4,
    "experiment": 4,
    "classifier_run": 4,
    "classifier_training": 4,
    "autoregressive_run": 4,
    "control": 4,
    "program": 3,
    "training_run": 3,
    "quickstart": 4,
    "cli": 4,
    "__main__": 4,
    "__init__": 4,
}
# Values without behaviour, which any layer may name: what a model is, and its options.
SHARED = {"diffusion_jax.models.base", "diffusion_jax.models.spec", "diffusion_jax.models.shape"}
THIRD_PARTY = {
    "flax.linen": {"models"},
    "optax": {"timesteps", "losses", "samplers", "guidance", "mbr", "train", "scale"},
    "orbax": {"scale"},
    "tyro": {"cli"},
}
# Packages that must answer without loading jax: text handling, configuration, the command line.
WITHOUT_JAX = ("text", "config", "config_io", "errors", "fields", "version")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Return every module name that a file imports, wherever in the file it does so."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def upward_edges(path: Path) -> list[str]:
    here = room(path)
    edges = []
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "diffusion_jax" or len(parts) < 2 or name in SHARED:
            continue
        if any(name.startswith(shared + ".") for shared in SHARED):
            continue
        there = parts[1]
        if there in LAYERS and LAYERS[there] > LAYERS[here] and not name.startswith("__"):
            edges.append(f"{path.relative_to(PACKAGE)} (layer {LAYERS[here]}) imports {name}")
    return edges


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    assert room(path) in LAYERS, f"give {room(path)} a layer in this test and in CONTRIBUTING.md"
    assert not upward_edges(path)


def test_the_check_sees_an_upward_edge(tmp_path, monkeypatch):
    bad = tmp_path / "forward.py"
    bad.write_text("def f():\n    from diffusion_jax.train.step import make_train_step\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    assert upward_edges(bad)


def test_samplers_and_guidance_do_not_know_each_other():
    for path in modules():
        names = imported(path)
        if room(path) == "samplers":
            assert not any(name.startswith("diffusion_jax.guidance") for name in names), path
        if room(path) == "guidance":
            assert not any(name.startswith("diffusion_jax.samplers") for name in names), path


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_third_parties_stay_in_their_rooms(path):
    names = imported(path)
    for library, rooms in THIRD_PARTY.items():
        if any(name == library or name.startswith(library + ".") for name in names):
            assert room(path) in rooms, f"{library} belongs into {sorted(rooms)}"
    if room(path) in WITHOUT_JAX:
        assert not any(name.split(".")[0] in ("jax", "flax", "optax") for name in names)
