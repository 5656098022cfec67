"""Write ``.pt`` files byte by byte, so that a test can also write what no honest program would."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

STORAGES = {"f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage", "f8": "DoubleStorage"}


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def sequence(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def numbers(values) -> bytes:
    return sequence(*map(number, values))


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + sequence(*arguments) + b"R"


def tensor(
    storage: str, key: str | bytes, count: int, offset: int | bytes, shape, strides
) -> bytes:
    """Return the pickle of a tensor; ``strides`` are counted in elements, bytes are pickles."""
    key = text(key) if isinstance(key, str) else key
    offset = number(offset) if isinstance(offset, int) else offset
    kind = f"ctorch\n{storage}\n".encode()
    pid = sequence(text("storage"), kind, key, text("cpu"), number(count)) + b"Q"
    hooks = call("collections", "OrderedDict")
    return call(
        *("torch._utils", "_rebuild_tensor_v2"),
        *(pid, offset, numbers(shape), numbers(strides), b"\x89", hooks),
    )


def parameter(data: bytes) -> bytes:
    return call("torch._utils", "_rebuild_parameter", data, b"\x88", b"N")


def table(entries: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in entries.items()) + b"u"


def write(
    path: Path,
    content: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    others: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write an archive with a pickle (without its frame) and the bytes of its storages."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        for key, raw in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", raw)
        for name, raw in (others or {}).items():
            archive.writestr(f"archive/{name}", raw)
    return path


def write_state_dict(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write what ``torch.save(state_dict)`` writes."""
    entries, storages = {}, {}
    for index, (name, array) in enumerate(arrays.items()):
        strides = [step // array.itemsize for step in np.ascontiguousarray(array).strides]
        storage = STORAGES[array.dtype.str[1:]]
        entries[name] = tensor(
            storage, str(index), array.size, 0, array.shape, strides[: array.ndim]
        )
        storages[str(index)] = array.tobytes()
    return write(path, table(entries), storages)
