"""What a user can get wrong: one clear line, exit code 2, nothing compiled, nothing overwritten."""

import io
import json
import pickle
import shutil
from pathlib import Path

import pytest

from diffusion_jax import generate, training_run
from diffusion_jax.cli import main
from diffusion_jax.text.files import read_standard_input
from tests.integration.small import FILE

CSV = "mr,ref\nname[The Fox],there is a fox\nname[The Barn],there is a barn\n"


@pytest.fixture(autouse=True)
def nothing_compiles(monkeypatch):
    """Make every way to a compiled program fail the test."""

    def refuse(*arguments, **options):
        raise AssertionError("something was compiled for bad input")

    for module, name in [
        (training_run, "create_state"),
        (training_run, "jit_train_step"),
        (generate.Generator, "_run"),
    ]:
        monkeypatch.setattr(module, name, refuse)


def contents(directory):
    return {p: p.read_bytes() for p in sorted(Path(directory).rglob("*")) if p.is_file()}


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command that must be refused; return its line on standard error."""

    def run(*arguments):
        before = contents(tmp_path)
        assert main([str(a) for a in arguments]) == 2
        streams = capsys.readouterr()
        assert contents(tmp_path) == before, "the disk was changed"
        assert streams.out == ""
        assert streams.err.startswith("diffusion-jax: error: ")
        assert streams.err.count("\n") == 1, "more than one line"
        return streams.err

    return run


@pytest.fixture
def train_refused(refused, tmp_path):
    def run(*arguments):
        return refused("train", FILE, "--scale", "text", "-w", tmp_path / "w", *arguments)

    return run


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


def test_directories_in_use_are_left_alone(refused, run_copy, tmp_path):
    train = ("train", FILE, "--scale", "text", "-w")
    assert "already holds a run; continue it with --resume" in refused(*train, run_copy())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("do not lose this")
    assert "is not empty (thesis.tex ...)" in refused(*train, tmp_path / "mine")
    assert "is not empty" in refused(*train, tmp_path / "mine", "--resume")
    assert "is a file" in refused(*train, tmp_path / "mine" / "thesis.tex")
    assert "Not a directory" in refused(*train, tmp_path / "mine" / "thesis.tex" / "run")


def test_a_bucket_is_no_directory(refused, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = refused("train", FILE, "--scale", "text", "-w", "gs://bucket/run")
    assert "gs://bucket/run is an address" in message
    assert "is an address" in refused("sample", "gs://bucket/run")


def test_other_rows_are_noticed_before_the_first_checkpoint(refused, run_copy):
    path = run_copy()
    shutil.rmtree(path / "checkpoints")
    (path / "rows.json").write_text('{"rows": "12345678"}')
    message = refused("train", FILE, "--scale", "text", "--resume", "-w", path)
    assert "checksum of its rows 12345678 then" in message


def test_files_in_a_directory_without_a_run_are_not_replaced(train_refused, refused, tmp_path):
    (tmp_path / "w" / "tokenizer").mkdir(parents=True)
    (tmp_path / "w" / "tokenizer" / "vocab.json").write_text('{"MY": "precious"}')
    assert "is not this run's tokenizer; move it away" in train_refused()


def test_a_finished_run_may_find_its_corpus_elsewhere_but_the_same(refused, run_copy, tmp_path):
    path, none = run_copy(), tmp_path / "none.txt"
    resume = ("train", FILE, "--scale", "text", "--resume", "-w", path)
    # A difference is said before the corpus is opened, which is not there.
    message = refused(*resume, "--data.corpus", none, "--optim.learning-rate", "0.5")
    assert "optim.learning_rate: 0.01 -> 0.5" in message
    # Nothing tells here what the rows were.
    assert "data.corpus: " in refused(*resume, "--data.corpus", none)
    (path / "rows.json").write_text('{"rows": "12345678"}')
    assert "none.txt: no such file" in refused(*resume, "--data.corpus", none)
    (tmp_path / "other.txt").write_text("the pub is nice .\n" * 99)
    other = refused(*resume, "--data.corpus", tmp_path / "other.txt")
    assert "checksum of its rows 12345678 then" in other


def test_numbers_and_files_of_single_commands(refused, untrained, run_copy, tmp_path):
    assert "--steps 0: train for at least 1" in refused("quickstart", "--steps", "0")
    assert "--steps -5: train for at least 1" in refused("quickstart", "--steps", "-5")
    one = _made(tmp_path, "the fox\n")
    assert "has 1 row" in refused("likelihood", untrained["text"], "--corpus", one)
    assert "is a run, and is what it is" in refused(
        "describe", untrained["text"], "--train.steps", "3"
    )


def test_a_run_is_not_resumed_with_another_configuration(refused, run_copy):
    resume = ("train", FILE, "--scale", "text", "--resume", "-w", run_copy())
    message = refused(*resume, "--optim.learning-rate", "0.5")
    assert "optim.learning_rate: 0.01 -> 0.5" in message
    assert "choose another --workdir" in message
    assert "train.steps: 20 -> 21" in refused(*resume, "--train.steps", "21")


@pytest.mark.parametrize("command", ["sample", "describe", "likelihood", "generate"])
def test_what_is_no_run_is_refused(refused, tmp_path, command):
    (tmp_path / "sources.txt").write_text("a b\n")
    (tmp_path / "empty").mkdir()
    more = ["--input", tmp_path / "sources.txt"] if command == "generate" else []
    assert "does not exist" in refused(command, tmp_path / "none", *more)
    assert "holds no config.json" in refused(command, tmp_path / "empty", *more)
    assert "is not a run directory" in refused(command, tmp_path / "sources.txt", *more)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "config.json: the configuration is not valid JSON"),
        (b"\xff\xfe", "config.json: 'utf-8' codec"),
        (b"[]", "config.json: the configuration is a JSON list"),
        (b'{"modle": {}}', "unknown configuration field modle; did you mean model?"),
        (b'{"model": {"num_layers": "two"}}', "model.num_layers = 'two'"),
    ],
)
def test_a_damaged_configuration(refused, run_copy, content, message):
    path = run_copy()
    (path / "config.json").write_bytes(content)
    assert message in refused("sample", path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{", "not a tokenizer description"),
        ("tokenizer.json", b'{"kind": "word", "options": {"colour": 1}}', "tokenizer.json"),
        ("tokenizer.json", b'{"kind": "runes", "options": {}}', "unknown tokenizer kind"),
        ("vocab.json", b'{"START": 0}', "vocab.json"),
        ("vocab.json", None, "vocab.json: no such file"),
    ],
)
def test_a_damaged_tokenizer(refused, run_copy, name, content, message):
    path = run_copy()
    target = path / "tokenizer" / name
    assert target.exists()
    target.unlink() if content is None else target.write_bytes(content)
    assert message in refused("sample", path)


def test_a_vocabulary_that_does_not_fit_the_checkpoint(refused, run_copy):
    path = run_copy()
    vocabulary = json.loads((path / "tokenizer" / "vocab.json").read_text())
    *_, last, other = vocabulary
    vocabulary[last], vocabulary[other] = vocabulary[other], vocabulary[last]
    (path / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    assert "does not fit the checkpoint" in refused("sample", path)


def test_checkpoints_that_are_missing_or_damaged(refused, run_copy):
    path = run_copy()
    assert "no checkpoint of step 7" in refused("sample", path, "--checkpoint-step", "7")
    assert "ema 0.5" in refused("sample", path, "--weights", "ema 0.5")
    for part in (path / "checkpoints" / "1").rglob("*"):
        if part.is_file():
            part.write_bytes(b"")
    assert "no checkpoint can be read" in refused("sample", path)
    shutil.rmtree(path / "checkpoints")
    assert "holds no checkpoint" in refused("sample", path)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_reading_a_run_runs_no_code_from_it(refused, run_copy, tmp_path):
    path = run_copy()
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    pickle.loads(bomb)
    (tmp_path / "exploded").unlink()
    (path / "sitecustomize.py").write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')")
    for target in ["config.json", "tokenizer/tokenizer.json", "tokenizer/vocab.json"]:
        original = (path / target).read_bytes()
        (path / target).write_bytes(bomb)
        refused("sample", path)
        (path / target).write_bytes(original)
    for part in (path / "checkpoints" / "1").rglob("*"):
        if part.is_file():
            part.write_bytes(bomb)
    refused("sample", path)
    assert not (tmp_path / "exploded").exists()


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
