"""Read the state dict of a PyTorch ``.pt`` file without PyTorch, and without running code from it.

Since PyTorch 1.6 such a file is an uncompressed zip archive: ``NAME/data.pkl`` is a pickle that
describes the tensors, ``NAME/data/KEY`` holds the bytes of one storage. A pickle may ask for any
function to be called; this reader knows the few that tensors need and refuses all others.
"""

import collections
import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.text.files import check_file

# Sixteen bits of a bfloat16 are the upper half of a float32, which is what it becomes here.
_BFLOAT16 = "bfloat16"
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
# What Python's pickler writes of protocol 2, torch.save's own, and the later ones.
_OPCODES = frozenset(
    (
        *("PROTO", "FRAME", "MARK", "STOP", "NONE", "NEWTRUE", "NEWFALSE"),
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("EMPTY_DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
        *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "NEWOBJ", "BINPERSID"),
    )
)
# These leave a list or a dict behind, which has no hash, whatever is in it.
_CHANGES = frozenset(["APPEND", "APPENDS", "SETITEM", "SETITEMS"])
_LARGEST_KEY = 100
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP_START = b"PK\x03\x04"


class _StorageType(NamedTuple):
    dtype: str


class _Storage(NamedTuple):
    dtype: str
    key: str
    count: int


class _Tensor(NamedTuple):
    """A tensor as the pickle describes it: nothing about it has been checked."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class _Known(NamedTuple):
    """A function that the pickle may call.

    Not the function itself: the pickle can also set attributes, and these have none to set.
    """

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


_FUNCTIONS = {
    ("torch._utils", "_rebuild_tensor_v2"): _Known(lambda *args: _Tensor(*args[:4])),
    ("torch._utils", "_rebuild_parameter"): _Known(lambda data, *_: data),
    ("collections", "OrderedDict"): _Known(lambda: collections.OrderedDict()),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        if (module, name) not in _FUNCTIONS:
            raise UserError(
                f"the file asks to run {f'{module}.{name}'!r}, which a table of parameters does "
                "not need; nothing from it was run. Do not trust this file, or save the plain "
                "state_dict anew with PyTorch"
            )
        return _FUNCTIONS[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        tag, storage_type, key, _, count = pid
        if tag != "storage" or not isinstance(storage_type, _StorageType):
            raise UserError("it refers to something that is not a storage of numbers")
        if type(key) is not str:
            raise UserError(f"the name of a storage is a {type(key).__name__}, not text")
        return _Storage(storage_type.dtype, key, _natural(count))


class _Archive:
    """The zip archive, each storage of which is read once."""

    def __init__(self, archive: zipfile.ZipFile):
        self._zip = archive
        pickles = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError("it is a zip archive, but not one that torch.save writes")
        self._folder = pickles[0].removesuffix("data.pkl")
        self._storages: dict[_Storage, np.ndarray] = {}

    def unpickle(self) -> Any:
        order = self._folder + "byteorder"
        if order in self._zip.namelist() and self._read(order) != b"little":
            raise UserError("it was written on a big-endian machine, which is not supported")
        content = self._read(self._folder + "data.pkl")
        _check_opcodes(content)
        return _Unpickler(io.BytesIO(content), encoding="utf-8").load()

    def array(self, name: str, tensor: _Tensor) -> np.ndarray:
        """Return a read-only view of the tensor's part of its storage, after checking it."""
        storage, offset, shape, strides = tensor
        shape, strides = tuple(map(_natural, shape)), tuple(map(_natural, strides))
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise UserError(f"the description of {name!r} is not that of a tensor")
        last = _natural(offset) + sum((n - 1) * step for n, step in zip(shape, strides))
        size = int(np.prod(shape, dtype=object))
        if size and (last >= storage.count or size > storage.count):
            raise UserError(f"{name!r} claims numbers beyond the {storage.count} of its storage")
        values = self._storage(storage)
        if not size:
            return np.empty(shape, values.dtype)
        return np.lib.stride_tricks.as_strided(
            values[offset:], shape, [step * values.itemsize for step in strides], writeable=False
        )

    def _storage(self, storage: _Storage) -> np.ndarray:
        if storage not in self._storages:
            content = self._read(f"{self._folder}data/{storage.key}")
            item = "<u2" if storage.dtype == _BFLOAT16 else storage.dtype
            if len(content) != storage.count * np.dtype(item).itemsize:
                raise UserError(
                    f"storage {storage.key} has {len(content)} bytes, but {storage.count} numbers "
                    "were announced"
                )
            values = np.frombuffer(content, item)
            if storage.dtype == _BFLOAT16:
                values = (values.astype("<u4") << 16).view("<f4")
            self._storages[storage] = values
        return self._storages[storage]

    def _read(self, name: str) -> bytes:
        # torch.save never compresses; a small compressed entry may unfold to any size.
        if self._zip.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise UserError(f"its entry {name!r} is compressed, which torch.save does not do")
        return self._zip.read(name)


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Read the parameters of a ``.pt`` file.

    Args:
        path: a file that ``torch.save`` wrote: a state dict, or a dict that holds one state dict
            among other things (a training checkpoint).

    Returns:
        Name -> read-only array. float16 and integers keep their type, bfloat16 becomes float32.

    Raises:
        UserError: the file is missing, damaged, of another format, holds no state dict, or asks for
            code to be run.
    """
    path = check_file(path)
    try:
        _check_start(path)
        with zipfile.ZipFile(path) as file:
            archive = _Archive(file)
            table = _find_table(archive.unpickle())
            return {name: archive.array(name, tensor) for name, tensor in table.items()}
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:
        # A damaged or hostile file can make the parsers of zip and pickle fail in any way.
        raise UserError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _check_start(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_START))
    if start == _LEGACY_START:
        raise UserError(
            "this is the format of PyTorch before 1.6; load and save it once with a newer PyTorch"
        )
    if not start.startswith(_ZIP_START):
        raise UserError("not a file that torch.save writes (those are zip archives)")
    if not zipfile.is_zipfile(path):
        raise UserError("the zip archive has no end: the file is truncated; copy it again")


def _check_opcodes(content: bytes) -> None:
    """Refuse a pickle that would keep the unpickler busy for ever, or fill the memory.

    A tuple is hashed by hashing its items. One that holds itself twice over, thirty times, is small
    in the file but takes hours as the key of a dict; so keys are measured here as they unfold.

    Raises:
        UserError: an instruction that torch.save does not write, a memo numbered higher than the
            file is long, or a key of more than ``_LARGEST_KEY`` parts.
    """
    stack: list[int | None] = []  # how many parts each object unfolds to; None for a mark
    memo: dict[int, int] = {}
    argument: Any  # an int wherever it is used; the library's types say that it may be None
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name not in _OPCODES:
            raise UserError(
                f"its pickle has the instruction {name}, which torch.save does not write; it is "
                "not trusted"
            )
        if name == "MARK":
            stack.append(None)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(memo) if name == "MEMOIZE" else argument
            if index > len(content):
                raise UserError(
                    "its pickle claims more objects than it has bytes; it is not trusted"
                )
            memo[index] = stack[-1] or 0
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        else:
            parts = _popped(stack, opcode)
            keys = parts[1::2] if name in ("SETITEM", "SETITEMS") else []
            if max(keys, default=0) > _LARGEST_KEY:
                raise UserError(
                    f"its pickle has a key of more than {_LARGEST_KEY} parts, where names are; it "
                    "is not trusted"
                )
            if opcode.stack_after:
                digits = argument.bit_length() // 64 if isinstance(argument, int) else 0
                size = 1 if name in _CHANGES else 1 + sum(parts) + digits
                # Counted no further: the count itself may have as many digits as the file.
                stack.append(min(size, _LARGEST_KEY + 1))


def _popped(stack: list[int | None], opcode: pickletools.OpcodeInfo) -> list[int]:
    """Take what an instruction takes from the stack; return its sizes in order."""
    parts: list[int | None] = []
    kinds = opcode.stack_before
    if pickletools.markobject in kinds:
        while (part := stack.pop()) is not None:
            parts.append(part)
        kinds = kinds[: kinds.index(pickletools.markobject)]
    parts += [stack.pop() for _ in kinds]
    return [part or 0 for part in reversed(parts)]


def _find_table(value: Any) -> dict[str, _Tensor]:
    """Return the state dict that was pickled, or the only one right inside what was pickled."""
    inside = value.values() if isinstance(value, Mapping) else ()
    # Each once, however often it is referred to.
    candidates = {id(item): item for item in (value, *inside)}.values()
    tables = [table for table in map(_tensors, candidates) if table]
    if len(tables) != 1:
        found = "no state dict" if not tables else f"{len(tables)} state dicts"
        raise UserError(
            f"it holds {found}; give a file with one table of parameters, as model.state_dict() "
            "returns it"
        )
    return tables[0]


def _tensors(value: Any) -> dict[str, _Tensor]:
    if not isinstance(value, Mapping):
        return {}
    return {str(name): item for name, item in value.items() if isinstance(item, _Tensor)}


def _natural(value: Any) -> int:
    if type(value) is not int:
        raise UserError(f"a size or position in it is a {type(value).__name__}, not a whole number")
    if value < 0:
        raise UserError(f"a size or position in it is {value}, not a whole number from 0")
    return value
