"""Pairs: attributes to text, and paraphrases, with an exact check of meaning."""

import math
from collections import Counter
from random import Random

import pytest

from diffusion_jax.text.grammar import load_grammar
from diffusion_jax.text.grammar.language import split_of
from diffusion_jax.text.grammar.pairing import linearise


@pytest.fixture(scope="module", params=("small", "full"))
def grammar(request):
    return load_grammar(request.param)


def test_data_to_text(grammar):
    for pair in grammar.data_to_text(0, 200, "validation"):
        fields = dict(field.split(" : ") for field in pair.src.split(" | "))
        assert fields == pair.attributes
        assert grammar.says(pair.trg, pair.attributes)
        assert split_of(pair.trg) == "validation"


def test_linearise_has_one_order():
    fields = {"food": "thai", "name": "golden fox", "price": "low"}
    assert linearise(fields) == "name : golden fox | food : thai | price : low"


def test_paraphrases(grammar):
    pairs = grammar.paraphrases(0, 150)
    assert len(pairs) == 150
    for pair in pairs:
        assert pair.src != pair.trg
        assert grammar.says(pair.src, pair.attributes)
        assert grammar.says(pair.trg, pair.attributes)
        assert split_of(pair.src) == split_of(pair.trg) == "train"
    assert pairs[:5] == grammar.paraphrases(0, 5)


def test_paraphrases_of_a_small_split():
    for pair in load_grammar("small").paraphrases(0, 20, "test"):
        assert split_of(pair.src) == split_of(pair.trg) == "test"


def test_says_is_exact(grammar):
    text = "the golden fox is a cheap thai pub ."
    said = {"name": "golden fox", "kind": "pub", "food": "thai", "price": "low"}
    assert grammar.says(text, said)
    assert not grammar.says(text, said | {"price": "high"})
    assert not grammar.says(text, said | {"area": "riverside"})
    assert not grammar.says(text, {k: v for k, v in said.items() if k != "food"})
    assert not grammar.says("the golden fox is cheap thai pub .", said)


def test_negation_is_read():
    grammar = load_grammar("small")
    said = grammar.parse("the golden fox does not welcome families .").best.attributes
    assert said == {"name": "golden fox", "family_friendly": "no"}


def test_realise_follows_the_conditional_distribution():
    # P(sentence | attributes) = P(sentence) / P(attributes): compare odds of frequent realisations.
    grammar = load_grammar("small")
    attributes = {"name": "chef ines", "rating": "average", "family_friendly": "no"}
    rng = Random(0)
    n = 4000
    drawn = Counter(grammar.realise(attributes, rng).text for _ in range(n))
    assert all(grammar.says(text, attributes) for text in drawn)
    # Every sentence with this meaning turns up, so their probabilities give the normaliser.
    total = math.fsum(math.exp(grammar.log_prob(text)) for text in drawn)
    for text, count in drawn.items():
        expected = math.exp(grammar.log_prob(text)) / total
        error = math.sqrt(expected * (1 - expected) / n)
        assert abs(count / n - expected) < 5 * error + 1e-3


def test_realise_reports_its_derivation(grammar):
    rng = Random(1)
    for s in grammar.corpus(3, 50):
        other = grammar.realise(s.attributes, rng)
        assert other.attributes == s.attributes
        assert grammar.log_prob(other.text) >= other.log_prob - 1e-9
