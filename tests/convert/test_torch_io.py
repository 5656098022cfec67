"""Reading .pt files without PyTorch: what they hold, and what they must not be able to do."""

import contextlib
import zipfile

import numpy as np
import pytest

from diffusion_jax.convert.torch_io import read_state_dict
from diffusion_jax.errors import UserError
from tests.convert import torch_files as pt
from tests.golden.torch_params import DATA

GOLDEN = DATA / "ema_0.9_000003.pt"
SIX = np.arange(6, dtype="<f4")


def one_tensor(storage="FloatStorage", count=6, offset=0, shape=(2, 3), strides=(3, 1), key="0"):
    return pt.table({"w": pt.tensor(storage, key, count, offset, shape, strides)})


def written(tmp_path, content, raw=None, **options):
    return pt.write(tmp_path / "file.pt", content, {"0": raw or SIX.tobytes()}, **options)


def test_an_original_file():
    arrays = read_state_dict(GOLDEN)
    assert len(arrays) == 51
    assert arrays["position_ids"].dtype == np.int64
    with np.load(DATA / "ema_checkpoint.npz") as golden:
        for name in ("word_embedding.weight", "lm_head.weight"):
            np.testing.assert_array_equal(arrays[name], golden[f"file/{name}"])


def test_views_into_one_storage(tmp_path):
    content = pt.table(
        {
            "whole": pt.tensor("FloatStorage", "0", 6, 0, (2, 3), (3, 1)),
            "transposed": pt.tensor("FloatStorage", "0", 6, 0, (3, 2), (1, 3)),
            "column": pt.tensor("FloatStorage", "0", 6, 1, (2,), (3,)),
            "scalar": pt.tensor("FloatStorage", "0", 6, 5, (), ()),
            "empty": pt.tensor("FloatStorage", "0", 6, 0, (0, 3), (3, 1)),
            "parameter": pt.parameter(pt.tensor("FloatStorage", "0", 6, 0, (6,), (1,))),
        }
    )
    arrays = read_state_dict(written(tmp_path, content))
    whole = SIX.reshape(2, 3)
    np.testing.assert_array_equal(arrays["whole"], whole)
    np.testing.assert_array_equal(arrays["transposed"], whole.T)
    np.testing.assert_array_equal(arrays["column"], whole[:, 1])
    np.testing.assert_array_equal(arrays["scalar"], np.float32(5))
    assert arrays["empty"].shape == (0, 3)
    np.testing.assert_array_equal(arrays["parameter"], SIX)
    assert not any(array.flags.writeable for name, array in arrays.items() if name != "empty")


@pytest.mark.parametrize(
    ("storage", "dtype"),
    [
        ("HalfStorage", "<f2"),
        ("DoubleStorage", "<f8"),
        ("LongStorage", "<i8"),
        ("BoolStorage", "?"),
    ],
)
def test_number_types(tmp_path, storage, dtype):
    raw = np.array([1, 0, 1, 1, 0, 1], dtype)
    array = read_state_dict(written(tmp_path, one_tensor(storage), raw.tobytes()))["w"]
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, raw.reshape(2, 3))


def test_bfloat16_becomes_float32(tmp_path):
    values = np.array([1.0, -2.5, 0.0, 3.0, 1e30, -0.125], np.float32)
    upper = (values.view("<u4") >> 16).astype("<u2")
    array = read_state_dict(written(tmp_path, one_tensor("BFloat16Storage"), upper.tobytes()))["w"]
    expected = (upper.astype("<u4") << 16).view("<f4")
    np.testing.assert_array_equal(array, expected.reshape(2, 3))
    np.testing.assert_allclose(array.ravel(), values, rtol=2**-7)


def test_what_torch_itself_writes(tmp_path):
    torch = pytest.importorskip("torch")
    state = {
        "half": torch.randn(3, 4).half(),
        "bfloat": torch.randn(5).bfloat16(),
        "transposed": torch.randn(3, 4).t(),
        "slice": torch.randn(6, 6)[1:4, ::2],
        "scalar": torch.tensor(2.5),
        "long": torch.arange(4),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }
    torch.save({"step": 3, "state_dict": state, "lr": [0.1]}, tmp_path / "file.pt")
    arrays = read_state_dict(tmp_path / "file.pt")
    assert arrays.keys() == state.keys()
    for name, value in state.items():
        value = value.detach()
        value = value.float() if value.dtype == torch.bfloat16 else value
        np.testing.assert_array_equal(arrays[name], value.numpy())
    module = torch.nn.Linear(2, 3)
    torch.save(module.state_dict(), tmp_path / "module.pt")
    loaded = read_state_dict(tmp_path / "module.pt")
    np.testing.assert_array_equal(loaded["weight"], module.weight.detach().numpy())


def test_a_table_inside_a_checkpoint(tmp_path):
    content = pt.table({"step": pt.number(3), "model": one_tensor()})
    assert read_state_dict(written(tmp_path, content)).keys() == {"w"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pt.table({"a": one_tensor(), "b": one_tensor()}), "2 state dicts"),
        (pt.table({"step": pt.number(3)}), "no state dict"),
        (pt.number(3), "no state dict"),
    ],
)
def test_no_single_table(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_state_dict(written(tmp_path, content))


# Code in the file.


def attacks(marker):
    command = pt.text(f"touch {marker}")
    stack_global = b"\x8c\x05posix\x8c\x06system\x93" + pt.sequence(command) + b"R"
    return {
        "os": pt.call("os", "system", command),
        "eval": pt.call("builtins", "eval", pt.text(f"open({str(marker)!r}, 'w')")),
        "stack global": stack_global,
        "inside the table": pt.table({"w": pt.call("os", "system", command)}),
        "of torch": pt.call("torch.hub", "load", pt.text("x")),
        "near a known name": pt.call("torch._utils", "_rebuild_tensor_v2.__globals__"),
    }


@pytest.mark.parametrize("name", attacks("x"))
def test_code_is_refused_and_not_run(tmp_path, name):
    marker = tmp_path / "ran"
    path = written(tmp_path, attacks(marker)[name])
    with pytest.raises(UserError, match=r"asks to run .* nothing from it was run"):
        read_state_dict(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "known",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch\nFloatStorage\n",
        b"ccollections\nOrderedDict\n",
    ],
)
def test_the_reader_itself_cannot_be_changed(tmp_path, known):
    """BUILD with a pair (state, attributes) sets attributes of whatever lies on the stack."""
    attributes = pt.table({"function": pt.text("changed"), "dtype": pt.text("changed")})
    changing = known + pt.sequence(b"N", attributes) + b"b"
    with pytest.raises(UserError, match=r"is damaged: (AttributeError|TypeError)"):
        read_state_dict(written(tmp_path, changing))
    np.testing.assert_array_equal(
        read_state_dict(written(tmp_path, one_tensor()))["w"], SIX.reshape(2, 3)
    )


# Sizes that lie.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offset": 1}, "beyond the 6"),
        ({"strides": (4, 1)}, "beyond the 6"),
        ({"shape": (3, 3)}, "beyond the 6"),
        ({"shape": (2**40, 2**40), "strides": (0, 0)}, "beyond the 6"),
        ({"strides": (1,)}, "not that of a tensor"),
        ({"strides": (-3, 1)}, "is -3, not a whole number"),
        ({"offset": -1}, "is -1, not a whole number"),
        ({"count": 5, "shape": (2,), "strides": (1,)}, "24 bytes, but 5 numbers"),
        ({"count": 7, "shape": (2,), "strides": (1,)}, "24 bytes, but 7 numbers"),
    ],
)
def test_extents_are_checked(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        read_state_dict(written(tmp_path, one_tensor(**options)))


def test_a_memo_that_would_eat_the_memory(tmp_path):
    bomb = pt.number(0) + b"r\xff\xff\xff\x7f"
    with pytest.raises(UserError, match="more objects than it has bytes"):
        read_state_dict(written(tmp_path, bomb))


def nested(levels, repeat):
    """Return an empty tuple, so often put twice into another one."""
    return b")" + levels * repeat


# Each time the tuple is doubled: by DUP, or by way of the memo.
BY_DUP, BY_MEMO = b"2\x86", b"q\x00h\x00\x86"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"}" + nested(BY_MEMO, 60) + b"Ns", "a key of more than 100 parts"),
        (b"}(" + pt.text("w") + b"N" + nested(BY_MEMO, 60) + b"Nu", "a key of more than 100 parts"),
        (b"}" + nested(b"\x85", 100_000) + b"Ns", "a key of more than 100 parts"),
        (
            b"}\x8b" + (10**5).to_bytes(4, "little") + b"\x01" * 10**5 + b"Ns",
            "a key of more than 100 parts",
        ),
        (nested(BY_DUP, 60), "the instruction DUP"),
        (b"(" + pt.text("touch x") + b"iposix\nsystem\n", "the instruction INST"),
        (b"(cposix\nsystem\n" + pt.text("touch x") + b"o", "the instruction OBJ"),
        (b"\x82\x01", "the instruction EXT1"),
        (b"Pname\n", "the instruction PERSID"),
        (one_tensor(key=nested(BY_MEMO, 60)), "the name of a storage is a tuple"),
        (one_tensor(key=pt.number(0)), "the name of a storage is a int"),
        (one_tensor(offset=nested(BY_MEMO, 60)), "a size or position in it is a tuple"),
        (b"}ccollections\nOrderedDict\n(](" + nested(BY_MEMO, 60) + b"N\x86etR", "is damaged"),
    ],
)
def test_what_would_never_end(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_state_dict(written(tmp_path, content))


def test_keys_that_are_no_text(tmp_path):
    content = pt.table({"model": one_tensor()})[:-1] + pt.numbers([1, 2]) + pt.number(3) + b"u"
    assert read_state_dict(written(tmp_path, content)).keys() == {"w"}


def test_a_table_that_is_referred_to_twice(tmp_path):
    content = pt.table({"model": one_tensor() + b"q\x00", "same": b"h\x00"})
    assert read_state_dict(written(tmp_path, content)).keys() == {"w"}


def test_compressed_entries_are_refused(tmp_path):
    path = written(tmp_path, one_tensor(), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="is compressed"):
        read_state_dict(path)


def test_big_endian_is_refused(tmp_path):
    with pytest.raises(UserError, match="big-endian"):
        read_state_dict(written(tmp_path, one_tensor(), others={"byteorder": b"big"}))


def test_missing_storage(tmp_path):
    with pytest.raises(UserError, match="is damaged"):
        read_state_dict(pt.write(tmp_path / "file.pt", one_tensor()))


# Other files.


def other_files():
    whole = GOLDEN.read_bytes()
    return {
        "text": (b"hello, this is no checkpoint", "not a file that torch.save writes"),
        "empty": (b"", "the file is empty"),
        "truncated": (whole[: len(whole) // 2], "truncated"),
        "legacy": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "before 1.6"),
        "bare pickle": (b"\x80\x02}.", "not a file that torch.save writes"),
    }


@pytest.mark.parametrize("name", other_files())
def test_other_files(tmp_path, name):
    content, message = other_files()[name]
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)


def test_another_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "file.pt", "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    with pytest.raises(UserError, match="but not one that"):
        read_state_dict(tmp_path / "file.pt")


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_state_dict(tmp_path / "file.pt")


def test_damaged_bytes_never_surprise(tmp_path):
    """Whatever byte of the pickle is changed: arrays, or one clear error."""
    content = b"\x80\x02" + one_tensor() + b"."
    generator = np.random.default_rng(0)
    complaints = []
    for _ in range(300):
        changed = bytearray(content)
        changed[generator.integers(len(changed))] = generator.integers(256)
        path = written(tmp_path, bytes(changed[2:-1]))
        with contextlib.suppress(UserError):
            read_state_dict(path)
            continue
        complaints.append(path)
    assert len(complaints) > 100
