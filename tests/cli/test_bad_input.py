"""What a user can get wrong: one clear line, exit code 2, nothing compiled, nothing overwritten."""

import io
import json

import pytest

from diffusion_jax.cli import main
from diffusion_jax.text.files import read_standard_input
from tests.integration.small import FILE

CSV = "mr,ref\nname[The Fox],there is a fox\nname[The Barn],there is a barn\n"


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("none.txt", None, [], "none.txt: no such file"),
        ("empty.txt", b"", [], "empty.txt: the file is empty"),
        ("blank.txt", b"\n \n", [], "no example"),
        ("latin.txt", b"tea\ncaf\xe9\n", [], "latin.txt, line 2: not UTF-8 text (byte 0xe9"),
        ("long.txt", b"a b c\n" + b"word " * 30 + b"\n", [], "does not fit length 18"),
        ("a.csv", CSV.encode(), ["--data.columns", "reff"], "no column 'reff'; did you mean 'ref'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', [], "a.jsonl, line 2: invalid JSON"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', [], "line 2: a JSON list, but must be an object"),
        ("a.jsonl", b'{"text": 3}\n', [], "column 'text' holds int"),
        ("a.parquet", b"PAR1", [], "unknown kind of file '.parquet'"),
        ("no", None, ["--data.corpus", "gs://bucket/a.txt"], "gs://bucket/a.txt is an address"),
        ("a.txt", b"a b c\n", ["--data.task", "pair"], "holds single texts, not pairs"),
        (
            "long.jsonl",
            json.dumps({"src": "a " * 10, "trg": "b " * 10}).encode(),
            ["--data.task", "pair"],
            "does not fit length 18",
        ),
    ],
)
def test_a_bad_corpus(train_refused, tmp_path, name, content, options, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert message in train_refused("--data.corpus", tmp_path / name, *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.corpus", "grammar:medium"], "medium"),
        (["--sample.steps", "21"], "at most diffusion.timesteps = 20"),
        (["--train.batch-size", "12"], "batch size 12 does not divide over 8 devices"),
        (["--train.batch-size", "24", "--train.microbatches", "2"], "use a multiple of 16"),
        (["--mesh.fsdp", "3"], "multiple of 3 devices; there are 8"),
        (["--mesh.tensor", "8"], "tensor=8 does not divide"),
        (["--diffusion.schedule", "sqrtt"], "sqrtt"),
        (["--optim.warmup-steps", "20"], "warmup_steps is 20"),
        (["--data.length", "19"], "the model has 18 positions; raise --model.max-length"),
        (["--model.vocab-size", "7"], "leave it unset"),
        (
            [
                *("--tokenizer.kind", "sentencepiece", "--tokenizer.vocab-file", __file__),
                *("--tokenizer.min-count", "None"),
            ],
            f"{__file__}: not a SentencePiece model",
        ),
        (["--data.cache", __file__], __file__),
        (["--tokenizer.min-count", "100000"], "no word occurs more than 100000 times"),
        (["--tokenizer.vocab-file", "none.json", "--tokenizer.min-count", "None"], "none.json: no"),
        (
            [
                *("--model.attention-impl", "cudnn", "--model.dtype", "bfloat16"),
                *("--model.attention-dropout", "0", "--model.num-heads", "1"),
            ],
            "needs an NVIDIA GPU",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_bad_option(train_refused, options, message):
    assert message in train_refused(*options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train.batch-sise", "3"], "--train.batch-size"),
        (["--train.steps", "many"], "many"),
        (["--train.steps", "0"], "train.steps = 0 is not allowed; give at least 1"),
        (["--data.task", "poem"], "poem"),
        (["--train.seed", "99999999999"], "train.seed = 99999999999"),
    ],
)
def test_what_the_parser_refuses_is_said_with_the_nearest_name(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        main(["train", FILE, "--scale", "text", "-w", str(tmp_path / "w"), *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_tensorboard_that_is_not_installed(train_refused, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    assert "pip install 'diffusion-jax[tensorboard]'" in train_refused("--train.tensorboard")


def test_an_unknown_command_and_what_is_no_experiment(refused, tmp_path):
    assert "did you mean 'train'?" in refused("trian")
    assert "is not a .py or .json file" in refused("train", "e2e", "-w", tmp_path / "w")
    assert "does not exist" in refused("train", tmp_path / "e2e.py", "-w", tmp_path / "w")


def test_numbers_and_files_of_single_commands(refused, untrained, run_copy, tmp_path):
    assert "--steps 0: train for at least 1" in refused("quickstart", "--steps", "0")
    assert "--steps -5: train for at least 1" in refused("quickstart", "--steps", "-5")
    one = _made(tmp_path, "the fox\n")
    assert "has 1 row" in refused("likelihood", untrained["text"], "--corpus", one)
    assert "is a run, and is what it is" in refused(
        "describe", untrained["text"], "--train.steps", "3"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-n", "0"], "num_samples is 0"),
        (["-n", "99999999999"], "take another seed for more"),
        (["--resume"], "give --format jsonl"),
        (["--seed", "-1"], "seed is -1"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--sampling.steps", "0"], "sample.steps = 0"),
        (["--sampling.eta", "0.5"], "sample.eta = 0.5"),
        (["--sampling.steps", "21"], "at most diffusion.timesteps = 20"),
        (["--sampling.sampler", "dpm++", "--sampling.eta", "1"], "it is for ddim only"),
        (["--sampling.sampler", "ddim", "--sampling.method", "singlestep"], "for dpm++ only"),
        (["--sampling.faithful-v2", "True"], "this model has no mean_embed"),
        (["--sampling.time-shift", "-0.1"], "sample.time_shift = -0.1"),
    ],
    ids=" ".join,
)
def test_bad_numbers_for_sample(refused, untrained, tmp_path, options, message):
    path = tmp_path / "out.txt"
    options = [option.replace("sampling.", "") for option in options]
    assert message in refused("sample", untrained["text"], "-o", path, *options)
    assert not path.exists()


def test_bad_sources(refused, untrained, tmp_path):
    command = ("generate", untrained["pair"], "-o", tmp_path / "out.jsonl", "-i")

    def sources(content, name="in.txt"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    assert "no such file" in refused(*command, tmp_path / "none.txt")
    assert "is a directory" in refused(*command, tmp_path)
    assert "is empty" in refused(*command, sources(b""))
    assert "source 2 is empty" in refused(*command, sources(b"a b\n\nc\n"))
    assert "source 3: a source of 60 tokens does not fit" in refused(
        *command, sources(b"a\nb\n" + b"c " * 60 + b"\n")
    )
    assert "line 2: not UTF-8" in refused(*command, sources(b"a\n\xff\n"))
    assert "line 2: invalid JSON" in refused(
        *command, sources(b'{"src": "a"}\n{"src"\n', "in.jsonl")
    )
    assert "no column 'src'" in refused(*command, sources(b'{"text": "a"}\n', "in.jsonl"))
    twice = b'{"id": 1, "src": "a"}\n{"id": 1, "src": "b"}\n'
    assert "the id 1 is there twice" in refused(*command, sources(twice, "in.jsonl"))
    alike = twice.replace(b": 1,", b': "1",', 1)
    assert "the id 1 is there twice" in refused(*command, sources(alike, "in.jsonl"))
    listed = b'{"id": [1], "src": "a"}\n'
    assert "neither a text nor a whole number" in refused(*command, sources(listed, "in.jsonl"))
    assert "candidates" in refused(*command, sources(b"a\n"), "--candidates", "0")
    assert "at most 52" in refused(*command, sources(b"a\n"), "--max-target", "500")
    for name in ("in.csv", "in.json"):
        assert "one a line" in refused(*command, sources(b"a\n", name))
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"a\n\xff\n", "standard input, line 2: not UTF-8")]
)
def test_bad_standard_input(capsys, untrained, monkeypatch, content, message):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["generate", str(untrained["pair"]), "-i", "-"]) == 2
    assert message in capsys.readouterr().err


def test_standard_input_is_read_as_files_are(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfa b\r\nc")))
    assert list(read_standard_input()) == [(1, "a b"), (2, "c")]


def test_sample_and_generate_are_not_confused(refused, untrained, tmp_path):
    (tmp_path / "in.txt").write_text("a b\n")
    out = tmp_path / "out.txt"
    assert "use generate, not sample" in refused("sample", untrained["pair"], "-o", out)
    generating = ("generate", untrained["text"], "-i", tmp_path / "in.txt", "-o", out)
    assert "use sample, not generate" in refused(*generating)
    assert not out.exists()


def test_no_output_is_overwritten(refused, untrained, tmp_path):
    (tmp_path / "in.txt").write_text("a b\nc\n")
    (tmp_path / "out.txt").write_text("precious")
    command = ("generate", untrained["pair"], "-i", tmp_path / "in.txt")
    for start in [("sample", untrained["text"]), command]:
        assert "it is not overwritten" in refused(*start, "-o", tmp_path / "out.txt")
        assert "is a directory" in refused(*start, "-o", tmp_path)
        assert "does not exist; create it" in refused(*start, "-o", tmp_path / "no" / "out.txt")
    assert "give --output" in refused(*command, "--resume")
    sampling = ("sample", untrained["text"], "--format", "jsonl", "--resume")
    assert "give --output" in refused(*sampling)
    assert "line 1 is not output" in refused(*sampling, "-o", _made(tmp_path, "precious\n"))
    more = "".join(f'{{"id": {i}, "text": "a"}}\n' for i in range(3))
    assert "line 3 is not output" in refused(*sampling, "-n", "2", "-o", _made(tmp_path, more))
    resume = (*command, "--resume", "-o", tmp_path / "out.txt")
    (tmp_path / "out.txt").write_text('{"id": 0}\nhalf')
    assert "line 1 is not output of this command" in refused(*resume)
    (tmp_path / "out.txt").write_text('{"id": 0, "source": "z", "candidates": ["a"]}\nhalf')
    assert "line 1 is not output of this command" in refused(*resume)
    (tmp_path / "out.txt").write_text('{"id": 0, "source": "a b", "candidates": ["a"]}\nhalf')
    assert "candidates" in refused(*resume, "--candidates", "2")
    # A file of another kind has no complete line: nothing of it may be cut off.
    (tmp_path / "out.txt").write_text("precious, without a line end")
    assert "an unfinished line that is not output" in refused(*resume)
    assert "the name of the output file is empty" in refused(*command, "-o", "")


def _made(folder, content):
    path = folder / "made.txt"
    path.write_text(content)
    return path
