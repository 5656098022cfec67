"""Options that texts name exist: a flag is typed as it stands there."""

import dataclasses
import re
from pathlib import Path

import pytest

from diffusion_jax.cli.control import ControlCommand
from diffusion_jax.cli.evaluate_control import EvaluateControlCommand
from diffusion_jax.config import AutoregressiveRunConfig, ClassifierRunConfig, ExperimentConfig

ROOT = Path(__file__).parents[2]
TEXTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "experiments").rglob("*.py")),
]
DOTTED = re.compile(r"--(?:[a-z0-9-]+\.)+[a-z0-9-]+")


def options(kind, prefix=""):
    """Yield the dotted options of a dataclass as they are typed, and how flags are switched off."""
    for field in dataclasses.fields(kind):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(default):
            yield from options(type(default), f"{prefix}{name}.")
        else:
            yield f"--{prefix}{name}"
        if isinstance(default, bool):
            yield f"--{prefix}no-{name}"


KNOWN = {
    option
    for kind in (
        ExperimentConfig,
        ClassifierRunConfig,
        AutoregressiveRunConfig,
        ControlCommand,
        EvaluateControlCommand,
    )
    for option in options(kind)
}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_dotted_options_exist(path):
    named = {match.rstrip("-") for match in DOTTED.findall(path.read_text(encoding="utf-8"))}
    assert named - KNOWN == set()


def test_the_list_holds_what_a_user_types():
    assert {"--data.corpus", "--train.no-compilation-cache", "--guidance.scale"} <= KNOWN
    assert "--no-data.keep-newline" not in KNOWN
