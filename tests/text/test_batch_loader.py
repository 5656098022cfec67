"""Batches: a pure function of seed and step, the same for any number of processes."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax.errors import UserError
from diffusion_jax.text.loader import EvalLoader, Loader
from diffusion_jax.text.rows import PackingReport
from diffusion_jax.text.store import TokenStore

PINNED = [8, 4, 1, 6, 3, 2, 7, 5, 9, 0]


def numbered(rows: int) -> TokenStore:
    """Return a table in which row i holds i, and gives i positions as its source."""
    ids = np.repeat(np.arange(rows, dtype=np.uint16)[:, None], 4, axis=1)
    return TokenStore(ids, np.arange(rows, dtype=np.int32) % 3, PackingReport(), "digest")


def drawn(loader: Loader, steps: int) -> np.ndarray:
    return np.concatenate([loader.batch_at(step)["input_ids"][:, 0] for step in range(steps)])


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**63))
def test_every_epoch_holds_every_row_once(rows, batch, seed):
    order = drawn(Loader(numbered(rows), batch, seed), -(-3 * rows // batch))
    for epoch in range(3):
        assert sorted(order[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_epochs_and_seeds_differ():
    first = drawn(Loader(numbered(50), 50, 0), 2)
    assert first[:50].tolist() != first[50:].tolist()
    assert first[:50].tolist() != list(range(50))
    assert first.tolist() != drawn(Loader(numbered(50), 50, 1), 2).tolist()


def test_without_shuffling_the_order_is_that_of_the_table():
    assert drawn(Loader(numbered(5), 3, 0, shuffle=False), 3).tolist() == [
        0,
        1,
        2,
        3,
        4,
        0,
        1,
        2,
        3,
    ]


def test_a_step_needs_no_steps_before_it():
    through = drawn(Loader(numbered(20), 6, 3), 12).reshape(12, 6)
    for step in (11, 0, 7):
        batch = Loader(numbered(20), 6, 3).batch_at(step)
        np.testing.assert_array_equal(batch["input_ids"][:, 0], through[step])


@pytest.mark.parametrize("process_count", [2, 3, 6])
def test_the_order_does_not_depend_on_the_number_of_processes(process_count):
    whole = Loader(numbered(20), 6, 3)
    parts = [
        Loader(numbered(20), 6, 3, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    for step in range(8):
        own = [part.batch_at(step) for part in parts]
        for name, expected in whole.batch_at(step).items():
            np.testing.assert_array_equal(np.concatenate([batch[name] for batch in own]), expected)


def test_the_order_is_the_same_on_every_machine():
    assert drawn(Loader(numbered(10), 10, 7), 1).tolist() == PINNED


def test_batches_have_their_types_and_masks():
    batch = Loader(numbered(7), 7, 0, shuffle=False).batch_at(0)
    assert batch["input_ids"].dtype == np.int32
    assert batch["noise_mask"].tolist()[2] == [False, False, True, True]


@pytest.mark.parametrize("process_count", [1, 2])
def test_evaluation_sees_every_row_once(process_count):
    loaders = [
        EvalLoader(numbered(10), 4, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    assert len(loaders[0]) == 3
    batches = [loader.batch_at(i) for i, loader in itertools.product(range(3), loaders)]
    ids = np.concatenate([batch["input_ids"][:, 0] for batch in batches])
    weight = np.concatenate([batch["weight"] for batch in batches])
    assert ids[weight == 1].tolist() == list(range(10))
    assert weight.dtype == np.float32
    assert weight.sum() == 10
    assert len(weight) == 12


@pytest.mark.parametrize(
    "loader",
    [lambda **k: Loader(numbered(9), seed=0, **k), lambda **k: EvalLoader(numbered(9), **k)],
)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_batch_size": 0}, "must be 1 or more"),
        (
            {"global_batch_size": 6, "process_count": 4},
            "not divisible by the number of processes, 4",
        ),
    ],
)
def test_batch_sizes_are_checked(loader, options, message):
    with pytest.raises(UserError, match=message):
        loader(**options)


def test_seeds_are_checked():
    with pytest.raises(UserError, match="seed is -1"):
        Loader(numbered(3), 1, -1)
