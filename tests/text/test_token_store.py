"""The token table: the same rows in memory and on disk, complete or not at all."""

import itertools
import json

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.text.example import Corpus, Example
from diffusion_jax.text.packing import pack_pair, pack_text
from diffusion_jax.text.rows import Packing
from diffusion_jax.text.store import build_store, open_store, store_digest
from diffusion_jax.text.tokenizers import WordTokenizer

TOKENIZER = WordTokenizer([f"w{i}" for i in range(9)])


def corpus_of(examples, *, paired=False, name="corpus"):
    examples = list(examples)
    return Corpus(lambda: iter(examples), paired, name, {"name": name})


def texts(count, words=3):
    return corpus_of(Example(text=f"w{i % 9} " * words, id=str(i)) for i in range(count))


def pairs(count):
    items = (Example(src=f"w{i % 9} w1", trg=f"w2 w{i % 7}", id=str(i)) for i in range(count))
    return corpus_of(items, paired=True)


@pytest.mark.parametrize("cached", [False, True])
def test_texts_become_the_rows_that_packing_gives(cached, tmp_path):
    # More rows than are written at once.
    corpus = texts(5000)
    store = build_store(corpus, TOKENIZER, Packing(8), cache_dir=tmp_path if cached else None)
    assert store.input_ids.shape == (5000, 8)
    assert store.input_ids.dtype == np.uint16
    expected = [pack_text(TOKENIZER.encode(e.text), 8, TOKENIZER).input_ids for e in corpus]
    batch = store.rows(np.arange(5000))
    np.testing.assert_array_equal(batch["input_ids"], expected)
    assert batch["input_ids"].dtype == np.int32
    assert batch["noise_mask"].dtype == np.bool_
    assert batch["noise_mask"].all()


@pytest.mark.parametrize("cached", [False, True])
def test_pairs_keep_their_noise_mask(cached, tmp_path):
    corpus = pairs(10)
    store = build_store(corpus, TOKENIZER, Packing(12), cache_dir=tmp_path if cached else None)
    batch = store.rows(np.array([7, 2]))
    for i, row in enumerate((7, 2)):
        example = list(corpus)[row]
        expected = pack_pair(
            TOKENIZER.encode(example.src), TOKENIZER.encode(example.trg), 12, TOKENIZER
        )
        np.testing.assert_array_equal(batch["input_ids"][i], expected.input_ids)
        np.testing.assert_array_equal(batch["noise_mask"][i], expected.noise_mask)


def test_large_vocabularies_need_wide_ids():
    tokenizer = WordTokenizer([f"w{i}" for i in range(70_000)])
    corpus = corpus_of([Example(text="w69999")])
    store = build_store(corpus, tokenizer, Packing(4))
    assert store.input_ids[0, 1] == 70_003


def test_blocks_join_examples():
    store = build_store(texts(4, words=2), TOKENIZER, Packing(5, "block"))
    assert store.input_ids.tolist() == [[0, 4, 4, 1, 0], [5, 5, 1, 0, 6], [6, 1, 0, 7, 7]]
    with pytest.raises(UserError, match="pairs cannot be packed in mode"):
        build_store(pairs(4), TOKENIZER, Packing(12, "block"))


def test_the_report_counts():
    corpus = corpus_of([Example(text="w1 w2 w3 w4"), Example(text="w1 zebra"), Example(text="w1")])
    report = build_store(corpus, TOKENIZER, Packing(5, on_long="truncate")).report
    assert (report.examples, report.rows, report.tokens, report.unknown_tokens) == (3, 3, 7, 1)
    assert (report.truncated, report.dropped) == (1, 0)
    report = build_store(corpus, TOKENIZER, Packing(5, on_long="drop")).report
    assert (report.rows, report.truncated, report.dropped) == (2, 0, 1)
    assert "14.29% unknown" in str(report)


@pytest.mark.parametrize("corpus", [texts(3, words=9), pairs(3)])
def test_the_example_that_does_not_fit_is_named(corpus):
    with pytest.raises(UserError, match=r"corpus, example 0: .* does not fit length 8"):
        build_store(corpus, TOKENIZER, Packing(8))
    with pytest.raises(UserError, match="no row of length 8 results"):
        build_store(corpus, TOKENIZER, Packing(8, on_long="drop"))


@pytest.mark.parametrize(
    "options", [{"length": 2}, {"length": 8, "mode": "pack"}, {"length": 8, "on_long": "cut"}]
)
def test_packing_options_are_checked(options):
    with pytest.raises(UserError):
        Packing(**options)


def test_the_second_run_reads_the_table_and_not_the_corpus(tmp_path):
    build_store(texts(20), TOKENIZER, Packing(8), cache_dir=tmp_path)

    def unreadable():
        raise AssertionError("the corpus was read again")

    corpus = Corpus(unreadable, False, "corpus", {"name": "corpus"})
    again = build_store(corpus, TOKENIZER, Packing(8), cache_dir=tmp_path)
    assert isinstance(again.input_ids, np.memmap)
    assert again.report.examples == 20
    assert again.digest == store_digest(corpus, TOKENIZER, Packing(8))


def test_digests_differ_with_corpus_tokenizer_and_packing():
    other = WordTokenizer(["w1"])
    digests = {
        store_digest(corpus_of([], name=name), tokenizer, packing)
        for name in ("a", "b")
        for tokenizer in (TOKENIZER, other)
        for packing in (Packing(8), Packing(9), Packing(8, "block"), Packing(8, on_long="drop"))
    }
    assert len(digests) == 16


def test_an_interrupted_build_leaves_no_table(tmp_path):
    def breaks():
        yield from itertools.islice(texts(9000), 9000)
        raise KeyboardInterrupt

    corpus = Corpus(breaks, False, "corpus", {"name": "corpus"})
    with pytest.raises(KeyboardInterrupt):
        build_store(corpus, TOKENIZER, Packing(8), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["input_ids.bin", "source_lengths.bin", "store.json"])
def test_a_damaged_table_is_built_again(tmp_path, damage):
    first = build_store(texts(20), TOKENIZER, Packing(8), cache_dir=tmp_path)
    expected = first.rows(np.arange(20))["input_ids"]
    directory = tmp_path / first.digest
    (directory / damage).write_bytes((directory / damage).read_bytes()[:-3])
    with pytest.raises(UserError, match="no complete token table"):
        open_store(directory)
    again = build_store(texts(20), TOKENIZER, Packing(8), cache_dir=tmp_path)
    np.testing.assert_array_equal(again.rows(np.arange(20))["input_ids"], expected)
    assert json.loads((directory / "store.json").read_text())["report"]["rows"] == 20
