"""The experiment file among a command's arguments: its fields are what the others override."""

import argparse
import dataclasses
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

from diffusion_jax.config import ExperimentConfig, TokenizerConfig
from diffusion_jax.config_io import load_experiment

SUFFIXES = (".py", ".json")


class Named(NamedTuple):
    """An experiment that was named.

    Attributes:
        path: of its file.
        scale: which size of it.
        config: what the file says, before any override; but where the arguments ask for another
            kind of tokenizer, nothing of what it says of its own.
    """

    path: str
    scale: str
    config: ExperimentConfig


def experiment_named_in(arguments: Sequence[str], flags: Collection[str] = ()) -> Named | None:
    """Load the experiment that stands among the arguments, in the size that ``--scale`` asks for.

    Args:
        arguments: of a command whose only .py or .json positional is an experiment.
        flags: the command's own options that take no value, without dashes.

    Raises:
        UserError: the file does not exist, fails, or refuses the scale.
    """
    path = _first_file(arguments, {*flags, *_names_of_flags(ExperimentConfig())})
    if path is None:
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--scale", default="full")
    parser.add_argument("--tokenizer.kind", dest="kind")
    known, _ = parser.parse_known_args(list(arguments))
    config = load_experiment(path, known.scale)
    if known.kind not in (None, config.tokenizer.kind):
        config = dataclasses.replace(config, tokenizer=TokenizerConfig())
    return Named(path, known.scale, config)


def _first_file(arguments: Sequence[str], flags: Collection[str]) -> str | None:
    """Return the first .py or .json argument that is not the value of an option."""
    for previous, argument in pairwise(["", *arguments]):
        flag = previous.lstrip("-").rsplit(".", 1)[-1].replace("-", "_").removeprefix("no_")
        is_value = previous.startswith("-") and "=" not in previous and flag not in flags
        if argument.endswith(SUFFIXES) and not argument.startswith("-") and not is_value:
            return argument
    return None


def _names_of_flags(config: object) -> list[str]:
    """Return the names of all fields that are true or false, those of nested configs included."""
    names = []
    for item in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            names += _names_of_flags(value)
        elif isinstance(value, bool):
            names.append(item.name)
    return names
