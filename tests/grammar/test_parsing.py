"""The chart parser: membership, inside probability, best derivation, meaning."""

import math
from dataclasses import replace

import pytest

from diffusion_jax.text.grammar import load_grammar
from diffusion_jax.text.grammar.analysis import SentenceCounter
from diffusion_jax.text.grammar.chart import Chart, normalise
from diffusion_jax.text.grammar.compiled import BIT, START, CompiledClass
from diffusion_jax.text.grammar.derivation import Node, words_of
from diffusion_jax.text.grammar.notation import Rule, Slot, Word

AMBIGUOUS = "the golden fox serves thai food near the old mill ."


@pytest.fixture(scope="module", params=("small", "full"))
def grammar(request):
    return load_grammar(request.param)


@pytest.fixture(scope="module")
def sentences(grammar):
    return grammar.corpus(0, 400)


def test_round_trip(grammar, sentences):
    for s in sentences:
        parse = grammar.parse(s.text)
        assert parse is not None, s.text
        assert parse.best.attributes == s.attributes
        assert parse.best.tokens == s.tokens
        assert parse.best.log_prob >= s.log_prob - 1e-9
        assert parse.log_prob >= parse.best.log_prob - 1e-9


def test_ambiguity_is_summed(grammar):
    parse = grammar.parse(AMBIGUOUS)
    # At least one attachment to the verb phrase and one to the noun phrase.
    assert parse.log_prob > parse.best.log_prob + 0.1


def _derivations(compiled, symbol, mask):
    """Yield (node, mask, probability) for every derivation, by plain enumeration."""
    choices = compiled.choices(symbol, mask)
    for rule, probability in zip(choices.rules, choices.probabilities):
        partial = [((), mask, probability)]
        for leaf in rule.leaves:
            longer = []
            for children, said, p in partial:
                if isinstance(leaf, Word):
                    longer.append((children, said, p))
                elif isinstance(leaf, Slot):
                    bit = BIT[leaf.attribute]
                    longer += [
                        ((*children, f), said | bit, p * f.probability)
                        for f in compiled.phrases[leaf].phrases
                    ]
                else:
                    longer += [
                        ((*children, node), after, p * inner)
                        for node, after, inner in _derivations(compiled, leaf.symbol, said)
                    ]
            partial = longer
        for children, said, p in partial:
            yield Node(rule, children), said, p


class _Tiny(CompiledClass):
    """Two plans of the small grammar, one of them ambiguous."""

    def __init__(self):
        super().__init__("small", "he")
        kept = [rule for rule in self.rules["lead"] if _is_kept(rule)]
        # The later of two analyses is the more probable one, so that the order cannot decide.
        self.rules["lead"] = [replace(rule, weight=1 + i) for i, rule in enumerate(kept)]
        self.rules[START] = self.rules[START][:1]


def _is_kept(rule: Rule) -> bool:
    words = [leaf.text for leaf in rule.leaves if isinstance(leaf, Word)]
    return words in (["serves"], ["although", "he", ","])


def test_inside_equals_enumeration():
    compiled = _Tiny()
    totals, best = {}, {}
    for node, _, p in _derivations(compiled, START, 0):
        words = words_of(node)
        totals[words] = totals.get(words, 0) + p
        best[words] = max(best.get(words, 0), p)
    assert math.fsum(totals.values()) == pytest.approx(1, abs=1e-9)
    assert any(totals[w] > best[w] * 1.1 for w in totals)
    assert SentenceCounter(compiled).count() == len(totals)
    chart = Chart(compiled)
    for words in list(totals)[::37]:
        item = chart.parse(normalise(words))
        assert item.inside == pytest.approx(totals[words], rel=1e-9)
        assert item.best == pytest.approx(best[words], rel=1e-9)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("the golden fox serves thai food .", "the golden fox serve thai food ."),
        ("the miller sisters serve thai food .", "the miller sisters serves thai food ."),
        ("the golden fox is an indian pub .", "the golden fox is a indian pub ."),
        ("the golden fox is a thai pub .", "the golden fox is an thai pub ."),
        (
            "the golden fox is cheap . it has a good rating .",
            "the golden fox is cheap . she has a good rating .",
        ),
        (
            "chef rosa has low prices . her food is thai .",
            "chef rosa has low prices . his food is thai .",
        ),
        (
            "chef omar , who serves thai food , has low prices .",
            "chef omar , which serves thai food , has low prices .",
        ),
        (
            "with its low prices , the golden fox serves thai food .",
            "with their low prices , the golden fox serves thai food .",
        ),
        (
            "although they have low prices , the baker brothers serve thai food .",
            "although it has low prices , the baker brothers serve thai food .",
        ),
        (
            "the golden fox is cheap . its food is thai .",
            "the golden fox is cheap . its prices are low .",
        ),
        (
            "the golden fox is cheap and serves thai food .",
            "the golden fox serves indian food and serves thai food .",
        ),
        ("the golden fox serves thai food .", "the golden fox serves thai food"),
        ("the golden fox serves thai food .", "the golden fox serves  thai food ."),
        ("the golden fox serves thai food .", "the golden fox thai serves food ."),
        ("the golden fox does not welcome families .", "the golden fox does welcome families ."),
        ("the golden fox serves thai food .", "the golden fox serves swedish food ."),
        ("the golden fox serves thai food .", "the golden fox serves thai food . a"),
        ("the golden fox serves thai food .", ""),
    ],
)
def test_corruption_is_rejected(grammar, right, wrong):
    assert grammar.accepts(right)
    assert not grammar.accepts(wrong)
    assert grammar.log_prob(wrong) == -math.inf


def test_swapped_words_are_seldom_sentences(grammar, sentences):
    swapped = []
    for s in sentences[:200]:
        words = list(s.tokens)
        words[2], words[3] = words[3], words[2]
        swapped.append(grammar.accepts(words))
    assert sum(swapped) <= 5


def test_consonant_sound_decides_the_article():
    grammar = load_grammar("full")
    assert grammar.accepts("the golden fox is a european pub .")
    assert not grammar.accepts("the golden fox is an european pub .")


def test_all_parses_say_the_same(grammar, sentences):
    # The probability with every other value struck out equals the whole probability.
    ambiguous = [s for s in sentences if grammar.parse(s.text).log_prob > s.log_prob + 1e-6][:25]
    assert ambiguous
    for s in ambiguous:
        subject = next(
            k
            for k, c in grammar.classes.items()
            if any(p.value == s.attributes["name"] for p in c.phrases[Slot("name", "")].phrases)
        )
        compiled = CompiledClass(grammar.size, subject)
        for slot, phrases in compiled.phrases.items():
            by_word = {
                word: tuple(p for p in listed if p.value == s.attributes.get(slot.attribute))
                for word, listed in phrases.by_word.items()
            }
            compiled.phrases[slot] = phrases._replace(by_word=by_word)
        item = Chart(compiled).parse(normalise(s.tokens))
        whole = math.log(item.inside * compiled.probability)
        assert whole == pytest.approx(grammar.log_prob(s.tokens), abs=1e-9)
