"""The adapter of spaCy and benepar, against stand-ins of theirs."""

import sys
from types import SimpleNamespace

import pytest

from diffusion_jax.cli import main
from diffusion_jax.control.annotators import spacy_annotator
from diffusion_jax.errors import UserError
from diffusion_jax.text.corpora import open_corpus
from diffusion_jax.text.labels import read_spans, read_tags


class Pipeline:
    vocab = None

    def __init__(self):
        self.pipeline = [("tagger", self.tag)]
        self.tree = None

    def tag(self, doc):
        # As benepar, it knows no line ends.
        tags = {"The": "DET", "pub": "NOUN", ".": "PUNCT"}
        for token in doc.tokens:
            token.pos_ = tags[token.text]
        return doc

    def add_pipe(self, name, config):
        self.pipeline.append((name, self.parse))

    def parse(self, doc):
        trees = ["(S (NP (DT The) (NN pub)) (. .))", "(NP (NN pub))"]
        doc.sents = [
            SimpleNamespace(start=start, _=SimpleNamespace(parse_string=tree))
            for start, tree in zip((0, 3), trees)
            if start < len(doc.tokens)
        ]
        return doc


class Doc:
    def __init__(self, vocab, words):
        assert words, "a text without words is not for a parser"
        self.tokens = [SimpleNamespace(text=word, pos_="") for word in words]

    def __iter__(self):
        return iter(self.tokens)


@pytest.fixture
def spacy(monkeypatch):
    def load(name):
        if name != "small":
            raise OSError("no such pipeline")
        return Pipeline()

    module = SimpleNamespace(load=load, tokens=SimpleNamespace(Doc=Doc))
    monkeypatch.setitem(sys.modules, "spacy", module)
    monkeypatch.setitem(sys.modules, "benepar", SimpleNamespace())


def test_tags_are_those_of_our_tokens(spacy):
    annotation = spacy_annotator("small")(["The", "pub", ".", "\n"])
    assert annotation.pos == ["DET", "NOUN", "PUNCT", "X"]
    assert annotation.spans is None


def test_sentences_are_counted_from_the_start_of_the_text(spacy):
    annotation = spacy_annotator("small", "parser")(["The", "pub", ".", "pub"])
    assert annotation.spans == ((0, 2, "S"), (0, 1, "NP"), (3, 3, "NP"))


def test_line_ends_are_not_shown_to_the_parser_and_keep_their_place(spacy):
    annotate = spacy_annotator("small", "parser")
    annotation = annotate(["\n", "The", "pub", "\n", ".", "pub", "\n"])
    assert annotation.pos == ["X", "DET", "NOUN", "X", "PUNCT", "NOUN", "X"]
    assert annotation.spans == ((1, 4, "S"), (1, 2, "NP"), (5, 5, "NP"))
    assert annotate(["\n"]) == (["X"], ())
    assert spacy_annotator("small")(["\n"]) == (["X"], None)


def test_labelled_lines_are_those_that_training_reads(spacy, tmp_path):
    texts, output = tmp_path / "texts.txt", tmp_path / "labelled.jsonl"
    texts.write_text("The pub .\nThe pub\n")
    arguments = ["label", str(texts), "--tagger", "small", "-o", str(output)]
    assert main(arguments) == 0
    corpus = open_corpus(str(output))
    assert [read_tags(example, "") for example in corpus] == [
        ["DET", "NOUN", "PUNCT"],
        ["DET", "NOUN"],
    ]
    assert main(arguments) == 2
    output.unlink()
    assert main([*arguments, "--parser", "parser", "--size", "1"]) == 0
    assert read_spans(next(iter(open_corpus(str(output)))), "")[1][0] == (0, 2, "S")


def test_what_is_missing_is_named(spacy, monkeypatch):
    with pytest.raises(UserError, match="python -m spacy download large"):
        spacy_annotator("large")
    monkeypatch.setitem(sys.modules, "benepar", None)
    with pytest.raises(UserError, match=r"benepar is not installed.*\[annotate\]"):
        spacy_annotator("small", "parser")
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match=r"spacy is not installed"):
        spacy_annotator("small")
