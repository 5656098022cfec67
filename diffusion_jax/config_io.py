"""Configurations in and out: JSON, experiment files, and what differs between two of them."""

import dataclasses
import difflib
import json
import re
import runpy
import traceback
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from diffusion_jax.config import ExperimentConfig, require
from diffusion_jax.errors import UserError

Config = TypeVar("Config", bound=Any)
DIFFUSION = "diffusion"
_UNKNOWN_FIELD = re.compile(
    r"(?P<section>\w+)\.__init__\(\) got an unexpected keyword argument '(?P<field>\w+)'"
)


def from_dict(cls: type, values: Mapping[str, Any], *, where: str = "") -> Any:
    """Build a config dataclass from nested plain values (as ``to_json`` writes them).

    Raises:
        UserError: an unknown field (the nearest name is suggested) or a value out of range.
    """
    hints = typing.get_type_hints(cls)
    known = [item.name for item in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            hint = _nearest(name, known, where)
            raise UserError(f"unknown configuration field {where}{name}{hint}")
    arguments = {
        name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()
    }
    return cls(**arguments)


def _nearest(name: str, known: Sequence[str], where: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {where}{near[0]}?" if near else ""


def _convert(hint: Any, value: Any, name: str) -> Any:
    """Give a JSON value the type of its field (JSON has lists where we keep tuples).

    What it leaves alone and does not fit is refused by the dataclass itself (``check_fields``).
    """
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{name} must be an object with fields, got {value!r}")
        return from_dict(typing.cast(type, hint), value, where=f"{name}.")
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        require(isinstance(value, list | tuple), name, value, "a list")
        item = options[0]
        return tuple(_convert(item, part, name) for part in value)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        inner = next(option for option in options if option is not type(None))
        return _convert(inner, value, name)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def from_json(text: str, kind: type[Config] = ExperimentConfig) -> Config:
    """Read what ``to_json`` of a configuration wrote; raises UserError on anything else.

    Args:
        text: JSON.
        kind: the dataclass that it must be; one with a field ``kind`` says so in the JSON.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"the configuration is not valid JSON: {error}") from error
    except RecursionError:
        raise UserError("the configuration is JSON that is nested too deeply") from None
    if not isinstance(values, dict):
        raise UserError(f"the configuration is a JSON {type(values).__name__}, not an object")
    found, wanted = values.get("kind", DIFFUSION), getattr(kind, "kind", DIFFUSION)
    if found != wanted:
        raise UserError(f"this is the run of a model of kind {found!r}, but {wanted!r} is needed")
    return from_dict(kind, values)


def read_json(path: Path, kind: type[Config] = ExperimentConfig) -> Config:
    """Read a file that ``to_json`` wrote; raises UserError naming the file."""
    try:
        return from_json(path.read_text(encoding="utf-8"), kind)
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error


def differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Return the dotted fields in which configurations (or dicts) differ: name -> (old, new)."""
    old_flat, new_flat = (
        _flatten(values if isinstance(values, Mapping) else dataclasses.asdict(values))
        for values in (old, new)
    )
    names = [*old_flat, *(name for name in new_flat if name not in old_flat)]
    return {
        name: (old_flat.get(name), new_flat.get(name))
        for name in names
        if old_flat.get(name) != new_flat.get(name)
    }


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def load_experiment(path: str, scale: str = "full") -> ExperimentConfig:
    """Run an experiment file's ``config(scale)`` and return what it builds.

    Args:
        path: a Python file with ``def config(scale="full") -> ExperimentConfig``, or a JSON file
            that ``to_json`` wrote.
        scale: passed on; files offer at least "full" and most a "small" that two cores can run.

    Raises:
        UserError: the file is missing, fails, has no ``config``, or refuses the scale.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"experiment file {path} does not exist; give a .py or .json file")
    if file.suffix == ".json":
        return read_json(file)
    try:
        build = runpy.run_path(str(file), run_name="diffusion_jax_experiment").get("config")
        config = build(scale) if callable(build) else None
    except Exception as error:
        raise UserError(f"{path}{_line_of(error, str(file))}: {_explain(error)}") from error
    if not callable(build):
        raise UserError(f"{path} has no function config(scale) that returns an ExperimentConfig")
    if not isinstance(config, ExperimentConfig):
        raise UserError(
            f"config() in {path} returned {type(config).__name__}, not an ExperimentConfig"
        )
    return config


def _line_of(error: Exception, path: str) -> str:
    """Return where in the experiment file it went wrong, as far as is known."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    return f", line {lines[-1]}" if lines else ""


def _explain(error: Exception) -> str:
    """Return one line on what an experiment file did wrong."""
    unknown = _UNKNOWN_FIELD.search(str(error)) if isinstance(error, TypeError) else None
    if unknown:
        whole = ExperimentConfig()
        for section in (whole, *vars(whole).values()):
            if dataclasses.is_dataclass(section) and type(section).__name__ == unknown["section"]:
                known = [item.name for item in dataclasses.fields(section)]
                hint = _nearest(unknown["field"], known)
                return f"{unknown['section']} has no field {unknown['field']}{hint}"
    if isinstance(error, ValueError):
        return str(error)
    return f"{type(error).__name__}: {error}"
