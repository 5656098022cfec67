"""Corpora: every published format gives the same examples, lazily, or one clear complaint."""

import itertools
import json

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.text.corpora import open_corpus
from diffusion_jax.text.example import linearise

E2E = "name : The Mill | food : Thai||The Mill serves Thai food . \nname : Fox||Fox is a pub . \n"


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


def pairs(corpus):
    return [(example.src, example.trg) for example in corpus]


def test_plain_lines(write):
    corpus = open_corpus(write("a.txt", "one fox\n\n two foxes \r\nthree"))
    assert [e.text for e in corpus] == ["one fox", "two foxes", "three"]
    assert [e.id for e in corpus] == ["1", "3", "4"]
    assert not corpus.paired


def test_a_byte_order_mark_is_no_text(write):
    assert [e.text for e in open_corpus(write("a.txt", b"\xef\xbb\xbffox\n"))] == ["fox"]


def test_e2e_as_text_and_as_pair(write):
    path = write("e2e.txt", E2E)
    text = open_corpus(path)
    assert [e.text for e in text] == ["The Mill serves Thai food .", "Fox is a pub ."]
    assert next(iter(text)).fields["attributes"] == {"name": "The Mill", "food": "Thai"}
    assert not text.paired
    pair = open_corpus(path, task="pair")
    assert pairs(pair)[0] == ("name : The Mill | food : Thai", "The Mill serves Thai food .")
    assert pair.paired


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "a fox .\n"),
        ("e2e.txt", "name : a||a fox .\n"),
        ("a.csv", "mr,ref\na,a fox .\n"),
        ("a.jsonl", '{"src": "a", "trg": "a fox ."}\n'),
    ],
)
def test_texts_may_end_with_a_newline_in_every_format(write, name, content):
    path = write(name, content)
    (text,) = open_corpus(path, task="text", keep_newline=True)
    assert text.text == "a fox . \n"
    if name != "a.txt":
        (pair,) = open_corpus(path, task="pair", keep_newline=True)
        assert (pair.src.split()[-1], pair.trg) == ("a", "a fox . \n")


def test_e2e_csv_reads_like_the_text_form(write):
    mr = '"name[The Mill], food[Thai, spicy]","A ""good"" mill,\nreally."\n'
    corpus = open_corpus(write("dev.csv", "mr,ref\n" + mr))
    assert pairs(corpus) == [("name : The Mill | food : Thai, spicy", 'A "good" mill,\nreally.')]
    assert linearise(next(iter(corpus)).fields["attributes"]) == pairs(corpus)[0][0]


def test_brackets_elsewhere_are_text(write):
    corpus = open_corpus(write("a.csv", "mr,ref\nsee [1] or name[x],b\n"))
    assert pairs(corpus) == [("see [1] or name[x]", "b")]
    corpus = open_corpus(write("a.jsonl", '{"src": "see note[1]", "trg": "b[2]"}\n'))
    assert pairs(corpus) == [("see note[1]", "b[2]")]


def test_jsonl_pairs_texts_and_other_columns(write):
    rows = [{"src": "a", "trg": "b", "label": 1}, {"src": "c", "trg": "d", "label": 0}]
    path = write("p.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    assert pairs(open_corpus(path)) == [("a", "b"), ("c", "d")]
    assert next(iter(open_corpus(path))).fields == {"label": 1}
    assert pairs(open_corpus(path, columns={"src": "trg", "trg": "src"}))[0] == ("b", "a")
    assert pairs(open_corpus(path, where={"label": "0"})) == [("c", "d")]
    assert [e.text for e in open_corpus(path, task="text")] == ["b", "d"]
    assert [e.text for e in open_corpus(path, columns={"text": "src"})] == ["a", "c"]


def test_parallel_and_starred_files(write):
    src, trg = write("s.txt", "a\nb\n"), write("t.txt", "c\nd\n")
    assert pairs(open_corpus(f"{src},{trg}")) == [("a", "c"), ("b", "d")]
    starred = write("adv.txt", "hard \neasy\n*******\nx\ny\n*******\n")
    assert pairs(open_corpus(starred)) == [("hard", "easy"), ("x", "y")]


def test_size_limits_and_texts_cover_both_sides(write):
    corpus = open_corpus(write("p.jsonl", '{"src": "a", "trg": "b"}\n' * 5), size=2)
    assert list(corpus.texts()) == ["a", "b", "a", "b"]


def test_reading_is_lazy(write):
    path = write("a.txt", b"fox\n" * 1000 + b"\xff\n")
    corpus = open_corpus(path)
    assert len(list(itertools.islice(corpus, 10))) == 10
    with pytest.raises(UserError, match="line 1001: not UTF-8"):
        list(corpus)


def test_identity_changes_with_content_and_options(write):
    path = write("e2e.txt", E2E)
    first = open_corpus(path).identity
    assert open_corpus(path).identity == first
    assert open_corpus(path, size=1).identity != first
    assert open_corpus(path, task="pair").identity != first
    write("e2e.txt", E2E.replace("Thai", "Thay"))
    assert open_corpus(path).identity != first
    long = open_corpus(write("long.txt", "fox\n" * 100)).identity
    assert open_corpus(write("long.txt", "fox\n" * 99 + "foxes\n")).identity != long


def test_grammar_gives_texts_and_pairs_of_each_split():
    texts = open_corpus("grammar:small", size=600)
    assert len({e.text for e in texts}) > 300
    assert [e.text for e in texts] == [e.text for e in open_corpus("grammar:small", size=600)]
    example = next(iter(texts))
    assert len(example.fields["pos"]) == len(example.text.split())
    other = [e.text for e in open_corpus("grammar:small", size=20, seed=1)]
    assert other != [e.text for e in itertools.islice(texts, 20)]
    held_out = {e.text for e in open_corpus("grammar:small", split="validation", size=200)}
    assert not held_out & {e.text for e in texts}


def test_grammar_gives_pairs():
    pair = open_corpus("grammar:small/data_to_text", size=3)
    assert pair.paired
    assert all(linearise(e.fields["attributes"]) == e.src for e in pair)
    assert open_corpus("grammar:small/paraphrase", size=2).paired


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", "", {}, "is empty"),
        ("a.txt", " \n\n", {}, "no example"),
        ("a.txt", b"ok\n\xe9t\xe9\n", {}, "a.txt, line 2: not UTF-8 text .byte 0xe9"),
        ("a.txt", "fox\n", {"task": "pair"}, "holds single texts"),
        ("a.txt", "fox\n", {"columns": {"text": "x"}}, "no option columns"),
        ("a.txt", "fox\n", {"where": {"x": "y"}}, "no option where"),
        ("a.txt", "fox\n", {"seed": 1}, "no option seed"),
        ("a.txt", "fox\n", {"format": "line"}, "did you mean 'lines'"),
        ("a.txt", "fox\n", {"size": 0}, "size is 0"),
        ("a.bin", "fox\n", {}, "unknown kind of file '.bin'"),
        ("a.txt", "x : y||z\nfox\n", {}, 'line 2: no "\\|\\|"'),
        ("a.txt", "a\nb\n***\nc\n", {}, "line 4: two lines of text"),
        ("a.jsonl", '{"src": "a", "trg": "b"}\n{"src": \n', {}, "a.jsonl, line 2: invalid JSON"),
        ("a.jsonl", "[1]\n", {}, "line 1: a JSON list"),
        ("a.jsonl", '{"src": "a", "tgt": "b"}\n', {}, "there is: src, tgt"),
        ("a.jsonl", '{"src": "a", "trg": 3}\n', {}, "holds int"),
        ("a.jsonl", '{"txt": "a"}\n', {"columns": {"text": "text"}}, "did you mean 'txt'"),
        ("a.jsonl", '{"text": "a"}\n', {"columns": {"txt": "text"}}, "must name text, or src"),
        ("a.jsonl", '{"text": "a", "l": 1}\n', {"where": {"l": "2"}}, "no example with"),
        ("a.csv", "mr,ref\na\n", {}, "a.csv, line 2: the row has not the 2 columns"),
        ("a.csv", 'mr,ref\na,"b\n', {}, "not valid csv"),
        ("a.csv", "mr,ref\na,b\nc, \n", {}, "a.csv, line 3: the target is empty"),
        ("a.jsonl", '{"src": " ", "trg": "b"}\n', {}, "a.jsonl, line 1: the source is empty"),
        ("a.jsonl", '\n{"text": ""}\n', {}, "line 2: the text is empty"),
        ("a.txt", "x : y||z\nx : y|| \n", {}, "a.txt, line 2: the text is empty"),
        ("a.txt", "x : y||z\n||z\n", {"task": "pair"}, "a.txt, line 2: the source is empty"),
        ("a.jsonl", '{"text": "a \\ud800 b"}\n', {}, "line 1: a character that is not Unicode"),
        ("a.jsonl", '{"x": ' + "[" * 9999 + "]" * 9999 + "}", {}, "line 1: the JSON is nested"),
    ],
)
def test_bad_input_is_named(write, name, content, options, message):
    path = write(name, content)
    with pytest.raises(UserError, match=message):
        list(open_corpus(path, **options))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("grammar:smal", {}, "small"),
        ("grammar:small/data2text", {}, "did you mean 'data_to_text'"),
        ("grammar:small", {"split": "valid"}, "validation"),
        ("grammar:small", {"keep_newline": True}, r"--data\.no-keep-newline"),
        ("tfds:e2e_cleaned", {}, "not found in .*prepare_tfds"),
        ("nowhere.txt", {}, "nowhere.txt: no such file"),
    ],
)
def test_unknown_corpora_are_named(spec, options, message, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=message):
        open_corpus(spec, **options)


def test_a_missing_file_is_answered_with_the_nearest(write, tmp_path):
    write("train.jsonl", "{}")
    with pytest.raises(UserError, match=r"did you mean .*train.jsonl"):
        open_corpus(str(tmp_path / "trian.jsonl"))
    with pytest.raises(UserError, match="is a directory"):
        open_corpus(str(tmp_path))


def test_options_of_another_corpus_are_left_out(write):
    path = write("a.csv", "mr,ref\na,b\n")
    options = {"keep_newline": True, "columns": {"text": "ref"}, "where": {"mr": "a"}}
    assert [e.text for e in open_corpus(path, **options, only_fitting=True)] == ["b \n"]
    path = write("a.txt", "fox\n")
    assert [e.text for e in open_corpus(path, **options, only_fitting=True)] == ["fox \n"]
    del options["columns"], options["where"]
    (example,) = open_corpus("grammar:small", size=1, **options, only_fitting=True)
    assert not example.text.endswith("\n")


def test_parallel_files_of_different_length_are_refused(write):
    spec = f"{write('s.txt', 'a')},{write('t.txt', 'c' + chr(10) + 'd')}"
    with pytest.raises(UserError, match=r"t\.txt, line 2: the other file has ended"):
        list(open_corpus(spec))
