"""The fields of a configuration hold what their annotations say, or are refused by name."""

import dataclasses
import functools
import numbers
import types
import typing
from typing import Any, Literal

from diffusion_jax.errors import UserError


def check_fields(config: Any, section: str = "") -> None:
    """Raise UserError for the first field of a dataclass whose value its annotation excludes.

    To be called first in ``__post_init__``: comparisons of a range fail on a text, and a mistyped
    choice would be taken for another one where it is used.

    Args:
        config: a dataclass, annotated with plain types, ``Literal``, ``tuple``, optional ones, and
            dataclasses. Whole numbers are taken where a float is wanted.
        section: what stands before the names of the fields in a message, with a dot.
    """
    for name, hint in _hints(type(config)).items():
        value = getattr(config, name)
        if not _fits(hint, value):
            name = f"{section}.{name}" if section else name
            raise UserError(f"{name} = {value!r} is not allowed; give {_described(hint)}")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {item.name: hints[item.name] for item in dataclasses.fields(kind)}


def _fits(hint: Any, value: Any) -> bool:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return isinstance(value, str) and value in options
    if origin in (typing.Union, types.UnionType):
        return any(_fits(option, value) for option in options)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(options[0], item) for item in value)
    if hint in (int, float):
        # NumPy's numbers are numbers, too; a bool is one by an accident of Python.
        number = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, hint)


def _described(hint: Any) -> str:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, options))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_described, options))
    if origin is tuple:
        return f"a tuple, each of its items {_described(options[0])}"
    return "None" if hint is type(None) else f"a value of type {hint.__name__}"
