"""``diffusion-jax evaluate``: alignment by id, both formats of candidates, bad files."""

import json
import os
import random
import threading

import pytest

from diffusion_jax.cli import main
from diffusion_jax.cli.generate import _read_sources
from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.files import read_aligned
from diffusion_jax.evaluate.report import evaluate_texts
from diffusion_jax.text.files import check_file
from diffusion_jax.text.tokenizers import WordPieceTokenizer

SOURCES = ["what is ai ?", "who is he ?", "where is it ?"]
REFERENCES = ["what is artificial intelligence ?", "who is that ?", "where is this ?"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "'", ",", "?", "ai", "he", "is", "it", "s", "that"]
VOCAB += ["then", "what", "who"]
CANDIDATES = [["what is ai", "what ?"], ["who is that ?", "who"], ["it", "where is it"]]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def generated(ids=(0, 1, 2), candidates=CANDIDATES):
    return [{"id": i, "source": SOURCES[i], "candidates": candidates[i]} for i in ids]


def published(column):
    return [
        {"recover": group[column], "reference": reference, "source": source}
        for group, reference, source in zip(CANDIDATES, REFERENCES, SOURCES, strict=True)
    ]


@pytest.fixture
def references(tmp_path):
    rows = [{"src": s, "trg": t} for s, t in zip(SOURCES, REFERENCES, strict=True)]
    return write(tmp_path / "references.jsonl", rows)


def test_lines_in_any_order_are_aligned_by_id(tmp_path, references):
    rows = generated()
    random.Random(1).shuffle(rows)
    assert [row["id"] for row in rows] != [0, 1, 2]
    texts = read_aligned([write(tmp_path / "a.jsonl", rows)], references)
    assert texts.candidates == CANDIDATES
    assert texts.references == REFERENCES
    assert texts.sources == SOURCES


def test_ids_of_references_count(tmp_path):
    rows = [{"id": f"q{i}", "trg": REFERENCES[i]} for i in (2, 0, 1)]
    references = write(tmp_path / "references.jsonl", rows)
    hypotheses = [{"id": f"q{i}", "candidates": CANDIDATES[i]} for i in range(3)]
    texts = read_aligned([write(tmp_path / "a.jsonl", hypotheses)], references)
    assert texts.ids == ["q2", "q0", "q1"]
    assert texts.candidates == [CANDIDATES[i] for i in (2, 0, 1)]
    assert texts.sources is None


def test_several_files_add_their_candidates(tmp_path, references):
    first = write(tmp_path / "a.jsonl", generated((2, 1, 0)))
    more = [["x"], ["y"], ["z"]]
    second = write(tmp_path / "b.jsonl", generated(candidates=more))
    texts = read_aligned([first, second], references)
    assert texts.candidates == [a + b for a, b in zip(CANDIDATES, more, strict=True)]


def test_files_of_diffuseq_carry_their_references(tmp_path):
    paths = [write(tmp_path / f"seed{c}.json", published(c)) for c in range(2)]
    texts = read_aligned(paths, None)
    assert texts.candidates == CANDIDATES
    assert texts.references == REFERENCES


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (generated((0, 1)), r"1 have no candidates \(id 2\)"),
        ([*generated(), {"id": 7, "candidates": ["a", "b"]}], r"1 are not in it \(id 7\)"),
        ([*generated((0, 1)), *generated((1,))], "line 3: the id 1 is there twice"),
        (generated(candidates=[["a"], ["a", "b"], ["a"]]), "id 1 has 2 candidates, but id 0 has 1"),
        (generated(candidates=[["a"], [], ["a"]]), "line 2: .* one or more texts"),
        (generated(candidates=[["a"], "b", ["a"]]), "line 2: .* one or more texts"),
        ([{"id": 0, "candidate": ["a"]}], "did you mean 'candidate'"),
        ([{"id": [0], "candidates": ["a"]}], "line 1: the id"),
        ([["a"]], "line 1: a JSON list"),
        ([{"id": i, "source": "other", "candidates": ["a"]} for i in range(3)], "same sources"),
        (published(0), "carries its own references"),
        ([], "the file is empty"),
    ],
)
def test_bad_candidates(tmp_path, references, rows, message):
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match=message):
        read_aligned([path], references)


def test_more_bad_files(tmp_path, references):
    path = write(tmp_path / "a.jsonl", generated())
    with pytest.raises(UserError, match="no such file"):
        read_aligned([path], tmp_path / "nothing.jsonl")
    with pytest.raises(UserError, match="has no references"):
        read_aligned([path], None)
    with pytest.raises(UserError, match="given twice"):
        read_aligned([path, path], references)
    (tmp_path / "link.jsonl").symlink_to(path)
    for same in (tmp_path / ".." / tmp_path.name / "a.jsonl", tmp_path / "link.jsonl"):
        with pytest.raises(UserError, match="given twice"):
            read_aligned([path, same], references)
    blank = tmp_path / "blank.jsonl"
    blank.write_text("\n\n")
    with pytest.raises(UserError, match="blank lines only"):
        read_aligned([blank], references)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": 0\n')
    with pytest.raises(UserError, match="line 1: invalid JSON"):
        read_aligned([broken], references)


def piped(path, text):
    """Make a named pipe into which a thread writes once it is read."""
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_text, args=(text,), daemon=True)
    thread.start()
    return str(path)


def test_what_is_read_once_may_be_a_pipe(tmp_path, references):
    path = piped(tmp_path / "pipe", "".join(json.dumps(row) + "\n" for row in generated()))
    assert read_aligned([path], references).candidates == CANDIDATES
    with pytest.raises(UserError, match="the file is empty"):
        read_aligned([piped(tmp_path / "empty", "")], references)


def test_what_is_read_twice_may_not(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="a pipe or a device, which cannot be read twice"):
        check_file(tmp_path / "pipe")
    # At once, before a model is loaded; and none waits for somebody to write.
    for name, message in (("pipe", "takes - for standard input"), ("none.txt", "no such file")):
        with pytest.raises(UserError, match=message):
            _read_sources(str(tmp_path / name))


def test_a_source_may_have_several_references(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", generated())
    rows = [{"trg": [REFERENCES[0], "what is ai"]}, {"trg": REFERENCES[1]}, {"trg": ["it"]}]
    references = write(tmp_path / "references.jsonl", rows)
    expected = [(REFERENCES[0], "what is ai"), REFERENCES[1], ("it",)]
    assert read_aligned([path], references).references == expected
    arguments = ["evaluate", "--hypotheses", path, "--references", references, "--output", "-"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["candidates"][0]["exact_match"] == 1.0
    for wrong in ([], ["it", 3]):
        references = write(tmp_path / "references.jsonl", [*rows[:2], {"trg": wrong}])
        with pytest.raises(UserError, match=r"line 3: .* a list of one or more"):
            read_aligned([path], references)


def test_files_of_other_sources_are_refused(tmp_path):
    rows = published(1)
    rows[2]["source"] = "another question"
    paths = [write(tmp_path / "a.json", published(0)), write(tmp_path / "b.json", rows)]
    with pytest.raises(UserError, match="id 2: the source is"):
        read_aligned(paths, None)


def test_command_prints_a_table_and_writes_json(tmp_path, references, capsys):
    path = write(tmp_path / "a.jsonl", generated((2, 0, 1)))
    scores = tmp_path / "scores.json"
    arguments = ["evaluate", "--hypotheses", path, "--references", references]
    assert main([*arguments, "--mbr", "--output", str(scores)]) == 0
    printed = capsys.readouterr().out
    assert "rouge_l" in printed
    assert "MBR" in printed
    record = json.loads(scores.read_text())
    assert record["hypotheses"] == [path]
    assert record["num_candidates"] == 2
    assert len(record["mbr_choice"]) == 3
    assert record["versions"]["sacrebleu"]

    assert main([*arguments, "--output", str(scores)]) == 2
    assert "is not overwritten" in capsys.readouterr().err


def test_what_generate_chose_has_a_column_of_its_own(tmp_path, references, capsys):
    rows = [{**row, "text": row["candidates"][1]} for row in generated((2, 1, 0))]
    path, scores = write(tmp_path / "a.jsonl", rows), tmp_path / "scores.json"
    arguments = ["evaluate", "--references", references, "--hypotheses"]
    assert main([*arguments, path, "--output", str(scores)]) == 0
    assert "chosen" in capsys.readouterr().out
    record = json.loads(scores.read_text())
    assert record["chosen"] == record["candidates"][1] != record["candidates"][0]
    assert record["mbr"] is None
    # A line without a choice, or a second file: then nothing was chosen of all that is there.
    some = write(tmp_path / "b.jsonl", [*rows[:2], *generated((0,))])
    assert read_aligned([some], references).chosen is None
    assert read_aligned([path, some], references).chosen is None
    rows[1]["text"] = "another"
    with pytest.raises(UserError, match='line 2: "text" is none of the candidates'):
        read_aligned([write(tmp_path / "c.jsonl", rows)], references)


def test_command_says_bad_input_on_one_line(tmp_path, references, capsys):
    path = write(tmp_path / "a.jsonl", generated((0,)))
    assert main(["evaluate", "--hypotheses", path, "--references", references]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "2 have no candidates (id 1, 2)" in error


@pytest.mark.parametrize("directory", ["run", "run/tokenizer"])
def test_references_are_spelled_as_the_tokenizer_writes(tmp_path, capsys, directory):
    """A model in lower case whose every word is right: but its spelling is not the corpus's."""
    pairs = [("Is it AI ?", "What's AI , is it that ?"), ("Who ?", "Who Is He , Then ?")]
    tokenizer = WordPieceTokenizer(VOCAB)
    tokenizer.save(tmp_path / "run" / "tokenizer")
    rows = [{"src": source, "trg": target} for source, target in pairs]
    references = write(tmp_path / "references.jsonl", rows)
    written = [tokenizer.decode(tokenizer.encode(text)) for _, text in pairs]
    assert written == ["what's ai, is it that?", "who is he, then?"]
    rows = [
        {"id": i, "source": source, "candidates": [text]}
        for i, ((source, _), text) in enumerate(zip(pairs, written))
    ]
    path = write(tmp_path / "written.jsonl", rows)
    arguments = ["evaluate", "--hypotheses", path, "--references", references]
    spelled = ["--tokenizer", str(tmp_path / directory)]
    for preset, perfect in (("diffuseq", 1.0), ("standard", 100.0)):
        scores = []
        for options in ([], spelled):
            assert main([*arguments, "--preset", preset, *options, "--output", "-"]) == 0
            scores.append(json.loads(capsys.readouterr().out))
        assert scores[0]["candidates"][0]["bleu"] < perfect / 2
        assert scores[1]["candidates"][0]["bleu"] == pytest.approx(perfect)
        assert scores[0]["tokenizer"] is None
        assert scores[1]["tokenizer"] == f"wordpiece, fingerprint {tokenizer.fingerprint()}"
    assert main([*arguments, *spelled]) == 0
    assert "wordpiece tokenizer spells them" in " ".join(capsys.readouterr().out.split())


def test_sources_are_spelled_too():
    tokenizer = WordPieceTokenizer(VOCAB)
    report = evaluate_texts(
        ["is it ai?"], ["who?"], ["[CLS] Is it AI ? [SEP]"], tokenizer=tokenizer
    )
    assert report.candidates[0]["source_copy"] == 1.0
    several = evaluate_texts(["who?"], [["What ?", "Who ?"]], tokenizer=tokenizer)
    assert several.candidates[0]["exact_match"] == 1.0


def test_a_tokenizer_that_cannot_be_used_is_refused(tmp_path, references, capsys):
    path = write(tmp_path / "a.jsonl", generated())
    arguments = ["evaluate", "--tokenizer", str(tmp_path), "--hypotheses"]
    assert main([*arguments, path, "--references", references]) == 2
    assert "holds no tokenizer; give the run directory" in capsys.readouterr().err
    assert main([*arguments, write(tmp_path / "b.jsonl", published(0))]) == 2
    assert "leave --tokenizer out" in capsys.readouterr().err


def test_standard_output_can_be_json(tmp_path, references, capsys):
    path = write(tmp_path / "a.jsonl", generated())
    arguments = ["--hypotheses", path, "--references", references, "--preset", "diffuseq"]
    assert main(["evaluate", *arguments, "--output", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["preset"] == "diffuseq"
