"""The two languages: their sizes, their distribution, and what a sentence carries."""

import hashlib
import json
import math
from random import Random

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.text.grammar import load_grammar
from diffusion_jax.text.grammar.analysis import (
    SentenceCounter,
    count_derivations,
    length_range,
    total_probability,
    unused_rules,
)
from diffusion_jax.text.grammar.lexicon import ATTRIBUTES

SIZES = ("small", "full")
UNIVERSAL_TAGS = {
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN"),
    *("PUNCT", "SCONJ", "SYM", "VERB", "X"),
}
# Digests of 1000 training sentences. A change here is a change of the corpus: every figure that
# was measured on it starts anew.
DIGESTS = {
    "small": "19d293774bb2e3c4",
    "full": "30c5ded88813a216",
}


@pytest.fixture(scope="module", params=SIZES)
def grammar(request):
    return load_grammar(request.param)


@pytest.fixture(scope="module")
def sentences(grammar):
    return grammar.corpus(0, 1000)


def _read_tree(text):
    """Read a bracketed tree into (label, children) and (tag, word)."""
    tokens = text.replace("(", " ( ").replace(")", " ) ").split()

    def read(at):
        assert tokens[at] == "("
        label, at = tokens[at + 1], at + 2
        if tokens[at] != "(":
            assert tokens[at + 1] == ")"
            return (label, tokens[at]), at + 2
        children = []
        while tokens[at] == "(":
            child, at = read(at)
            children.append(child)
        assert tokens[at] == ")"
        return (label, children), at + 1

    tree, end = read(0)
    assert end == len(tokens)
    return tree


def _measure(tree, start, words, spans):
    label, children = tree
    if isinstance(children, str):
        words.append(children)
        return start + 1
    assert [child[0] for child in children] != [label]
    place = len(spans)
    spans.append(None)
    end = start
    for child in children:
        end = _measure(child, end, words, spans)
    spans[place] = (start, end - 1, label)
    return end


def test_vocabulary_sizes():
    small, full = (set(load_grammar(size).vocabulary()) for size in SIZES)
    assert 110 <= len(small) <= 130
    assert len(full) >= 400
    assert small < full


def test_vocabulary_covers_corpus(grammar, sentences):
    words = set(grammar.vocabulary())
    assert all(words.issuperset(s.tokens) for s in sentences)


def test_lengths_are_bounded_by_construction(grammar):
    ranges = [length_range(compiled) for compiled in grammar.classes.values()]
    assert min(low for low, _ in ranges) == grammar.min_length == 5
    assert max(high for _, high in ranges) == grammar.max_length
    assert grammar.max_length == {"small": 16, "full": 40}[grammar.size]


def test_probabilities_sum_to_one(grammar):
    assert sum(c.probability for c in grammar.classes.values()) == pytest.approx(1, abs=1e-12)
    for compiled in grammar.classes.values():
        assert total_probability(compiled) == pytest.approx(1, abs=1e-12)


def test_every_rule_can_be_used(grammar):
    for compiled in grammar.classes.values():
        assert [(r.symbol, r.leaves) for r in unused_rules(compiled)] == []


def test_every_form_says_every_value(grammar):
    # Conditional sampling rests on it.
    values = grammar.values()
    for compiled in grammar.classes.values():
        for slot, phrases in compiled.phrases.items():
            if slot.attribute != "name":
                assert {p.value for p in phrases.phrases} == set(values[slot.attribute])
            assert math.fsum(p.probability for p in phrases.phrases) == pytest.approx(1)
            assert len({p.words for p in phrases.phrases}) == len(phrases.phrases)


def test_all_attributes_occur(sentences):
    said = {attribute for s in sentences for attribute in s.attributes}
    assert said == set(ATTRIBUTES)


def test_number_of_sentences():
    small = load_grammar("small")
    assert small.count_sentences() == 1_001_716
    derivations = sum(count_derivations(c) for c in small.classes.values())
    assert small.count_sentences() < derivations
    assert SentenceCounter(load_grammar("full").classes["she"]).count() > 10**12


def test_sentence_fields_agree(sentences):
    for s in sentences[:300]:
        assert s.text == " ".join(s.tokens)
        assert len(s.pos) == len(s.tokens)
        assert UNIVERSAL_TAGS.issuperset(s.pos)
        words, spans = [], []
        _measure(_read_tree(s.tree), 0, words, spans)
        assert tuple(words) == s.tokens
        assert tuple(spans) == s.spans
        assert list(s.attributes) == [a for a in ATTRIBUTES if a in s.attributes]
        assert json.loads(json.dumps(s.to_json()))["text"] == s.text


def test_example_tree():
    best = load_grammar("small").parse("the golden fox is an indian pub near the old mill .").best
    assert best.tree == (
        "(TOP (S (NP (DT the) (NNP golden) (NNP fox)) (VP (VBZ is) (NP (NP (DT an) (JJ indian) "
        "(NN pub)) (PP (IN near) (NP (DT the) (JJ old) (NN mill))))) (. .)))"
    )
    assert " ".join(best.pos) == "DET PROPN PROPN AUX DET ADJ NOUN ADP DET ADJ NOUN PUNCT"
    assert best.spans[3:6] == ((3, 10, "VP"), (4, 10, "NP"), (4, 6, "NP"))
    assert best.attributes == {
        "name": "golden fox",
        "kind": "pub",
        "food": "indian",
        "near": "old mill",
    }


def test_corpus_never_drifts(grammar, sentences):
    lines = "\n".join(f"{s.text}\t{s.tree}\t{' '.join(s.pos)}" for s in sentences)
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == DIGESTS[grammar.size]


def test_corpus_is_a_prefix_of_a_longer_one(grammar, sentences):
    assert grammar.corpus(0, 10) == sentences[:10]
    assert grammar.corpus(1, 10) != sentences[:10]


def test_splits_share_no_sentence():
    grammar = load_grammar("small")
    splits = [{s.text for s in grammar.corpus(0, 600, split)} for split in ("train", "test")]
    splits.append({s.text for s in grammar.corpus(1, 600, "validation")})
    assert not splits[0] & splits[1]
    assert not splits[0] & splits[2]
    assert not splits[1] & splits[2]


def test_distinct_sentences():
    grammar = load_grammar("small")
    texts = [s.text for s in grammar.corpus(0, 800, "validation", distinct=True)]
    assert len(set(texts)) == 800
    repeated = [s.text for s in grammar.corpus(0, 800, "validation")]
    assert len(set(repeated)) < 800


def test_sample_frequencies_match_probabilities():
    grammar = load_grammar("small")
    rng = Random(0)
    n = 4000
    said = [grammar.sample(rng).attributes["name"] for _ in range(n)]
    share = said.count("golden fox") / n
    expected = 10 / 20 / 6
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_entropy_estimates_agree(grammar):
    first, second = grammar.entropy(0, 800), grammar.entropy(1, 800)
    spread = math.hypot(first.se_sentence, second.se_sentence)
    assert abs(first.nats_per_sentence - second.nats_per_sentence) < 4 * spread
    spread = math.hypot(first.se_token, second.se_token)
    assert abs(first.nats_per_token - second.nats_per_token) < 4 * spread
    assert first.nats_per_token * first.tokens_per_sentence == pytest.approx(
        first.nats_per_sentence
    )
    # The spread of 800 sentences around the mean is several nats: see that the error is not of it.
    assert 0.02 < first.se_sentence < 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_grammar("huge"), "small, full"),
        (lambda: load_grammar("small").corpus(0, 1, "dev"), "train, validation, test"),
        (lambda: load_grammar("small").corpus(0, -1), "-1"),
        (lambda: load_grammar("small").entropy(0, 1), "at least 2"),
        (lambda: load_grammar("small").realise({"colour": "red"}, Random(0)), "family_friendly"),
        (lambda: load_grammar("small").realise({"price": "huge"}, Random(0)), "moderate"),
        (lambda: load_grammar("small").realise({"price": "low"}, Random(0)), "give a name"),
        (lambda: load_grammar("small").realise({"name": "golden fox"}, Random(0)), "exactly"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call()
