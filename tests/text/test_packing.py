"""Packing: DiffuSeq's own rows, and what must hold for any text."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax.errors import UserError
from diffusion_jax.text.packing import (
    pack_blocks,
    pack_pair,
    pack_source,
    pack_text,
    pad_mask,
    unpack_target,
)
from diffusion_jax.text.tokenizers import WordTokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "diffuseq_pairs.json"
TOKENIZER = WordTokenizer([f"w{i}" for i in range(20)])
START, END, PAD = TOKENIZER.start_id, TOKENIZER.end_id, TOKENIZER.pad_id
IDS = st.lists(st.integers(4, TOKENIZER.vocab_size - 1), max_size=12)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def original_tokenizer(golden):
    return WordTokenizer(list(golden["vocab"])[4:])


def test_encoding_is_that_of_diffuseq(golden, original_tokenizer):
    for side in ("src", "trg"):
        ours = [[0, *original_tokenizer.encode(text), 1] for text in golden[side]]
        assert ours == golden[f"encoded_{side}"]


@pytest.mark.parametrize("length", ["48", "24", "16"])
def test_pairs_are_packed_as_in_diffuseq(golden, original_tokenizer, length):
    expected = golden["by_seq_len"][length]
    for i, (src, trg) in enumerate(zip(golden["src"], golden["trg"])):
        row = pack_pair(
            original_tokenizer.encode(src),
            original_tokenizer.encode(trg),
            int(length),
            original_tokenizer,
            on_long="truncate",
        )
        np.testing.assert_array_equal(row.input_ids, expected["input_ids"][i])
        np.testing.assert_array_equal(row.noise_mask, np.asarray(expected["input_mask"][i]) == 1)
        written = " ".join(original_tokenizer.tokens(row.input_ids[row.noise_mask]))
        assert written.replace(" [PAD]", "") == expected["decoded"][i]["target"]


@given(IDS, IDS)
def test_a_pair_that_fits_comes_back_whole(src, trg):
    row = pack_pair(src, trg, len(src) + len(trg) + 5, TOKENIZER)
    assert row.input_ids.tolist() == [START, *src, END, END, START, *trg, END]
    assert unpack_target(row.input_ids, row.noise_mask, TOKENIZER) == trg
    assert row.noise_mask.tolist() == [False] * (len(src) + 3) + [True] * (len(trg) + 2)


@given(IDS, IDS, st.integers(5, 20))
def test_a_truncated_pair_keeps_its_special_tokens_and_prefixes(src, trg, length):
    row = pack_pair(src, trg, length, TOKENIZER, on_long="truncate")
    ids = row.input_ids.tolist()
    assert len(ids) == length
    given_part, target = ids[: (~row.noise_mask).sum()], ids[(~row.noise_mask).sum() :]
    assert given_part == [START, *src[: len(given_part) - 3], END, END]
    kept = unpack_target(row.input_ids, row.noise_mask, TOKENIZER)
    assert target[: len(kept) + 2] == [START, *trg[: len(kept)], END]
    cut_from_src, cut_from_trg = len(src) + 3 - len(given_part), len(trg) - len(kept)
    if cut_from_src and not cut_from_trg:
        assert len(given_part) - 3 >= len(kept) - 1


def test_the_separator_stands_between_the_ends_of_source_and_target():
    class Special:
        start_id, end_id, sep_id, pad_id = 101, 102, 103, 0

    row = pack_pair([7], [8], 8, Special())
    assert row.input_ids.tolist() == [101, 7, 102, 103, 101, 8, 102, 0]


@given(IDS)
def test_source_alone_is_the_given_part_of_the_pair(src):
    pair = pack_pair(src, [5], 24, TOKENIZER)
    source = pack_source(src, 24, TOKENIZER)
    np.testing.assert_array_equal(pair.noise_mask, source.noise_mask)
    np.testing.assert_array_equal(
        pair.input_ids[~pair.noise_mask], source.input_ids[~source.noise_mask]
    )
    assert np.all(source.input_ids[source.noise_mask] == PAD)


def test_source_leaves_room_for_the_target():
    row = pack_source(range(4, 20), 12, TOKENIZER, target_room=4, on_long="truncate")
    assert row.noise_mask.sum() == 4
    with pytest.raises(UserError, match="leaves 5; shorten it"):
        pack_source(range(4, 20), 12, TOKENIZER, target_room=4)
    with pytest.raises(UserError, match="too short"):
        pack_source([], 5, TOKENIZER, target_room=4)


@given(IDS, st.integers(14, 20))
def test_texts_are_padded_and_wholly_generated(ids, length):
    row = pack_text(ids, length, TOKENIZER)
    assert row.input_ids.tolist() == [START, *ids, END] + [PAD] * (length - len(ids) - 2)
    assert row.noise_mask.all()
    assert pad_mask(row.input_ids, PAD).sum() == len(ids) + 2


def test_a_truncated_text_does_not_end():
    assert pack_text([4, 5, 6], 4, TOKENIZER, on_long="truncate").input_ids.tolist() == [
        START,
        4,
        5,
        6,
    ]


@pytest.mark.parametrize(
    "pack",
    [lambda: pack_text([4] * 7, 8, TOKENIZER), lambda: pack_pair([4, 4], [4, 4], 8, TOKENIZER)],
)
def test_what_does_not_fit_is_an_error_unless_truncation_is_asked_for(pack):
    with pytest.raises(UserError, match="does not fit length 8"):
        pack()


@given(st.lists(IDS, max_size=8), st.integers(3, 9))
def test_blocks_are_the_concatenation_cut_without_its_remainder(id_lists, length):
    stream = [token for ids in id_lists for token in (START, *ids, END)]
    rows = list(pack_blocks(iter(id_lists), length, TOKENIZER))
    joined = [token for row in rows for token in row.input_ids.tolist()]
    assert joined == stream[: len(stream) - len(stream) % length]
    assert all(row.input_ids.shape == (length,) and row.noise_mask.all() for row in rows)
