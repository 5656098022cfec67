"""Tokenizers: ids and text are inverse, files restore them, equal fingerprints mean equal ids."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax.errors import UserError
from diffusion_jax.text.tokenizers import (
    SentencePieceTokenizer,
    WordPieceTokenizer,
    WordTokenizer,
    build_tokenizer,
    load_tokenizer,
)

TEXTS = [
    "the golden fox is a cheap thai restaurant .",
    "the old mill serves english food near the river .",
    "families are welcome at the golden fox , which is cheap .",
]
BERT_VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "fox", "##es", ".", "cafe", "it", "'", "s"]
WORDS = st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=5), min_size=1)


def wordpiece() -> WordPieceTokenizer:
    return WordPieceTokenizer(BERT_VOCAB)


def tokenizers():
    return [
        WordTokenizer.build(TEXTS, threshold=0),
        SentencePieceTokenizer.build(TEXTS, vocab_size=40),
        wordpiece(),
    ]


@given(WORDS)
def test_word_ids_and_text_are_inverse(words):
    text = " ".join(words)
    tokenizer = WordTokenizer.build([text], threshold=0)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_word_vocabulary_keeps_words_above_the_threshold_in_order_of_first_occurrence():
    texts = ["b a c b", "c a a d"]
    assert WordTokenizer.build(texts, threshold=1).words == ("b", "a", "c")
    assert WordTokenizer.build(texts, threshold=2).words == ("a",)


def test_word_special_ids_are_those_of_diffusion_lm():
    tokenizer = WordTokenizer(["fox"])
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.unk_id, tokenizer.pad_id) == (
        0,
        1,
        2,
        3,
    )
    assert tokenizer.encode("fox wolf") == [4, 2]
    assert tokenizer.vocab_size == 5


def test_a_newline_is_a_word():
    tokenizer = WordTokenizer.build(["fox . \n"], threshold=0)
    assert tokenizer.tokens(tokenizer.encode("fox . \n")) == ["fox", ".", "\n"]
    assert tokenizer.decode(tokenizer.encode("fox . \n")) == "fox ."


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda t: t.kind)
def test_text_cannot_spell_special_tokens(tokenizer):
    special = {tokenizer.start_id, tokenizer.end_id, tokenizer.sep_id, tokenizer.pad_id}
    spelled = "[START] [END] [PAD] [CLS] [SEP] <s> </s> <pad> [UNK]"
    assert not special & set(tokenizer.encode(spelled))


def test_special_words_of_the_training_text_do_not_enter_the_vocabulary():
    assert WordTokenizer.build(["[END] fox [PAD]"], threshold=0).words == ("fox",)


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda t: t.kind)
def test_decode_stops_at_end_and_drops_start_and_padding(tokenizer):
    ids = tokenizer.encode("the fox")
    row = [tokenizer.start_id, *ids, tokenizer.end_id, tokenizer.pad_id, *ids]
    assert tokenizer.decode(row) == tokenizer.decode(ids)
    assert len(tokenizer.tokens(row)) == len(row)


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda t: t.kind)
def test_saved_tokenizers_come_back(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new")
    restored = load_tokenizer(tmp_path / "new", fingerprint=tokenizer.fingerprint())
    assert restored.fingerprint() == tokenizer.fingerprint()
    assert restored.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert restored.vocab_size == tokenizer.vocab_size


def test_fingerprints_differ_with_order_casing_and_kind():
    prints = {
        WordTokenizer(["a", "b"]).fingerprint(),
        WordTokenizer(["b", "a"]).fingerprint(),
        WordTokenizer(["a", "b"], bpe_markers=True).fingerprint(),
        WordPieceTokenizer(BERT_VOCAB).fingerprint(),
        WordPieceTokenizer(BERT_VOCAB, lowercase=False).fingerprint(),
    }
    assert len(prints) == 5


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path):
    WordTokenizer(["a"]).save(tmp_path)
    with pytest.raises(UserError, match="does not fit the checkpoint"):
        load_tokenizer(tmp_path, fingerprint=WordTokenizer(["b"]).fingerprint())


def test_published_vocabularies_are_read(tmp_path):
    published = {"START": 0, "END": 1, "UNK": 2, "PAD": 3, "fox": 4, "mill": 5}
    (tmp_path / "vocab.json").write_text(json.dumps(published))
    assert WordTokenizer.from_vocab_file(tmp_path / "vocab.json").words == ("fox", "mill")
    (tmp_path / "vocab.txt").write_text("fo@@ 17\nx 12\n")
    pieces = WordTokenizer.from_vocab_file(tmp_path / "vocab.txt")
    assert pieces.encode("fo@@ x") == [4, 5]
    assert pieces.decode([4, 5]) == "fox"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "must map every word"),
        ('{"a": 0, "b": 5}', "must map every word"),
        ('{"a": "x", "b": 5}', "must map every word"),
        ('{"a": 0, "b": 1, "c": 2, "d": 3}', "does not fit"),
        ("{", "invalid JSON"),
    ],
)
def test_other_json_is_no_vocabulary(tmp_path, content, message):
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(UserError, match=message):
        WordTokenizer.from_vocab_file(tmp_path / "vocab.json")


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_sentencepiece_gives_back_the_text_and_the_same_model_twice(model_type):
    first = SentencePieceTokenizer.build(TEXTS, vocab_size=40, model_type=model_type)
    again = SentencePieceTokenizer.build(iter(TEXTS), vocab_size=40, model_type=model_type)
    assert first.fingerprint() == again.fingerprint()
    assert first.vocab_size == 40
    assert (first.start_id, first.end_id, first.unk_id, first.pad_id) == (0, 1, 2, 3)
    for text in TEXTS:
        assert first.decode(first.encode(text)) == text


def test_sentencepiece_can_fold_case(tmp_path):
    built = SentencePieceTokenizer.build(TEXTS, vocab_size=40, lowercase=True)
    built.save(tmp_path)
    for tokenizer in (built, load_tokenizer(tmp_path)):
        for text in TEXTS:
            assert tokenizer.encode(text.upper()) == tokenizer.encode(text)
            assert tokenizer.decode(tokenizer.encode(text.upper())) == text.lower()
    plain = SentencePieceTokenizer.build(TEXTS, vocab_size=40)
    assert plain.unk_id in plain.encode(TEXTS[0].upper())
    (tmp_path / "a.model").write_bytes(built.model_proto)
    with pytest.raises(UserError, match="folds case"):
        build_tokenizer("sentencepiece", vocab_file=tmp_path / "a.model", lowercase=True)


@pytest.mark.parametrize(("size", "message"), [(5000, "at most [0-9]+ pieces"), (6, "too small")])
def test_sentencepiece_says_which_sizes_are_possible(size, message):
    with pytest.raises(UserError, match=message):
        SentencePieceTokenizer.build(TEXTS, vocab_size=size)


def test_sentencepiece_refuses_other_bytes():
    with pytest.raises(UserError, match="not a SentencePiece model"):
        SentencePieceTokenizer(b"no model")


def test_wordpiece_splits_as_bert_does():
    tokenizer = wordpiece()
    assert tokenizer.tokens(tokenizer.encode("The Foxes' CAFÉ.")) == [
        "the", "fox", "##es", "'", "cafe", "."
    ]  # fmt: skip
    assert tokenizer.decode(tokenizer.encode("the foxes.")) == "the foxes."
    assert tokenizer.decode(tokenizer.encode("It ' s the fox's cafe")) == "it's the fox's cafe"
    assert tokenizer.start_id == BERT_VOCAB.index("[CLS]")
    assert tokenizer.end_id == tokenizer.sep_id == BERT_VOCAB.index("[SEP]")


def test_wordpiece_vocabulary_must_be_one(tmp_path):
    (tmp_path / "vocab.txt").write_text("the\nfox\n")
    with pytest.raises(UserError, match=r"vocab.txt: the vocabulary has no \[PAD\]"):
        build_tokenizer("wordpiece", vocab_file=tmp_path / "vocab.txt")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("words", {}, "did you mean 'word'"),
        ("word", {"vocab_size": 10}, "no option vocab_size"),
        ("word", {"threshold": 1000}, "lower the threshold"),
        ("word", {"threshold": 1, "vocab_file": "v.txt"}, "to which min_count would do nothing"),
        ("sentencepiece", {}, "needs vocab_size"),
        ("wordpiece", {}, "needs vocab_file"),
        ("wordpiece", {"vocab_file": "absent.txt"}, "no such file"),
    ],
)
def test_options_are_checked(kind, options, message):
    with pytest.raises(UserError, match=message):
        build_tokenizer(kind, TEXTS, **options)
