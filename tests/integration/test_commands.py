"""Text in, text out, through the commands that a user types; nothing here waits for training."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import diffusion_jax as dj
from diffusion_jax.cli import main
from diffusion_jax.errors import RunError
from tests.integration.small import FILE, write_untrained

ROOT = Path(__file__).parents[2]
NUM_SOURCES = 21


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {scale: str(write_untrained(root / scale, scale)) for scale in ("text", "pair")}


@pytest.fixture(scope="module", autouse=True)
def one_generator_per_run():
    """Load and compile each run once for all tests of this file."""
    loaded = {}
    real = dj.Generator.from_checkpoint.__func__

    def from_checkpoint(cls, path, **options):
        name = (str(path), *sorted(options.items()))
        if name not in loaded:
            loaded[name] = real(cls, path, **options)
        return loaded[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dj.Generator, "from_checkpoint", classmethod(from_checkpoint))
        yield


@pytest.fixture
def written(capsys):
    """Run a command that works and return what it writes to standard output."""

    def run(*arguments):
        assert main([str(a) for a in arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def test_sample_as_text_as_json_lines_and_into_a_file(runs, written, tmp_path):
    text = written("sample", runs["text"], "-n", "5")
    lines = text.splitlines()
    assert len(lines) == 5
    assert all(lines)
    assert len(set(lines)) > 1
    rows = [
        json.loads(line)
        for line in written("sample", runs["text"], "-n", "5", "--format", "jsonl").splitlines()
    ]
    assert rows == [{"id": i, "text": line} for i, line in enumerate(lines)]
    assert written("sample", runs["text"], "-n", "5", "-o", tmp_path / "out.txt") == ""
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == text


def test_sample_i_depends_on_the_seed_and_on_i_alone(runs):
    writer = dj.Generator.from_checkpoint(runs["text"], weights="ema", step=None)
    whole = writer.sample(20, batch_size=32)
    assert writer.sample(20, batch_size=8) == whole
    assert writer.sample(7) == whole[:7]
    assert writer.sample(20, seed=1) != whole


def test_samples_are_there_as_soon_as_their_batch_is(runs):
    writer = dj.Generator.from_checkpoint(runs["text"], weights="ema", step=None)
    batches = []

    def counted(*arguments):
        batches.append(arguments)
        return writer.reverse(*arguments)

    texts = replace(writer, reverse=counted).stream(24, batch_size=8)
    first = [next(texts) for _ in range(8)]
    assert len(batches) == 1
    whole = writer.sample(24)
    assert first + list(texts) == whole
    assert list(writer.stream(10, batch_size=8, first_index=14)) == whole[14:]


def test_samples_resumed_equal_those_of_one_run(runs, written, tmp_path):
    command = ("sample", runs["text"], "-n", "20", "--batch-size", "8", "--format", "jsonl", "-o")
    written(*command, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    # Cut within the eleventh line, as a kill does.
    lines = whole.splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_bytes(b"".join(lines[:10]) + lines[10][:12])
    for _ in range(2):  # the second time nothing is left to do
        written(*command, tmp_path / "cut.jsonl", "--resume")
        assert (tmp_path / "cut.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "1"], "seed: 0 -> 1"),
        (["--steps", "3"], "sampling.steps: 4 -> 3"),
        (["--weights", "params"], "weights: "),
    ],
)
def test_a_file_is_not_resumed_with_other_options(runs, written, tmp_path, capsys, change, message):
    path = tmp_path / "out.jsonl"
    command = ["sample", runs["text"], "-n", "4", "--format", "jsonl", "-o", str(path)]
    written(*command)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + b'{"id": 2, ')
    begun = path.read_bytes()
    assert main([*command, "--resume", *change]) == 2
    assert message in capsys.readouterr().err
    assert path.read_bytes() == begun
    written(*command, "--resume")
    assert path.read_bytes() == b"".join(lines)
    # Without the record nothing can be compared, and the user's word counts.
    (tmp_path / "out.jsonl.options.json").unlink()
    path.write_bytes(lines[0])
    written(*command, "--resume", *change)
    assert len(path.read_bytes().splitlines()) == 4


def test_a_line_end_within_a_sample_makes_no_second_line(runs, written, monkeypatch):
    monkeypatch.setattr(dj.Generator, "stream", lambda *_, **__: iter(["a\nb", "c"]))
    assert written("sample", runs["text"], "-n", "2") == "a b\nc\n"


def test_sampling_options_reach_the_chain(runs):
    writer = dj.Generator.from_checkpoint(runs["text"], sampler="ddim", steps=2, clamp="none")
    assert writer.config.sample.sampler == "ddim"
    assert writer.config.sample.steps == 2
    with pytest.raises(dj.UserError, match="unknown sampling option 'stepz'"):
        dj.Generator.from_checkpoint(runs["text"], stepz=2)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    pairs = dj.load_grammar("small").data_to_text(5, NUM_SOURCES, "test")
    path = tmp_path_factory.mktemp("sources") / "in.txt"
    path.write_text("".join(pair.src + "\n" for pair in pairs), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def generated(runs, sources, one_generator_per_run):
    """Return the whole output for the sources, two candidates each, 8 rows at a time."""
    path = sources.parent / "whole.jsonl"
    assert main([str(a) for a in generate_arguments(runs, sources, path)]) == 0
    return path.read_bytes()


def generate_arguments(runs, sources, output):
    return (
        *("generate", runs["pair"], "--input", sources, "--output", output),
        *("--candidates", "2", "--batch-size", "8"),
    )


def test_generate_keeps_the_order_and_writes_every_candidate(generated, sources):
    rows = [json.loads(line) for line in generated.splitlines()]
    assert [row["id"] for row in rows] == list(range(NUM_SOURCES))
    assert [row["source"] for row in rows] == sources.read_text(encoding="utf-8").splitlines()
    assert all(len(row["candidates"]) == 2 for row in rows)
    assert any(first != second for first, second in (row["candidates"] for row in rows))


@pytest.mark.parametrize("cut", [0, 1, 500, -1, None])
def test_generate_goes_on_after_any_byte(generated, runs, sources, tmp_path, cut):
    part = tmp_path / "out.jsonl"
    part.write_bytes(generated[:cut])
    assert main([*map(str, generate_arguments(runs, sources, part)), "--resume"]) == 0
    assert part.read_bytes() == generated


def test_generate_from_standard_input_and_json_lines(
    generated, runs, sources, written, monkeypatch, tmp_path
):
    few = sources.read_text(encoding="utf-8").splitlines()[:4]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(("\n".join(few) + "\n").encode())))
    typed = written(*generate_arguments(runs, "-", "-"))
    assert typed.encode() == b"".join(generated.splitlines(keepends=True)[:4])
    lines = tmp_path / "in.jsonl"
    lines.write_text("".join(json.dumps({"src": text, "trg": ""}) + "\n" for text in few))
    assert written(*generate_arguments(runs, lines, "-")) == typed


def test_ids_of_the_input_go_through_to_the_evaluation(
    generated, runs, sources, written, tmp_path, capsys
):
    rows = [
        {"id": f"q\u00e9{9 - i}", "src": text, "trg": text}
        for i, text in enumerate(sources.read_text(encoding="utf-8").splitlines()[:4])
    ]
    test, out = tmp_path / "test.jsonl", tmp_path / "out.jsonl"
    test.write_text("".join(json.dumps(row) + "\n" for row in rows))
    written(*generate_arguments(runs, test, out))
    lines = out.read_text(encoding="utf-8").splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == [row["id"] for row in rows]
    plain = [json.loads(line) for line in generated.splitlines()[:4]]
    assert [json.loads(line)["candidates"] for line in lines] == [r["candidates"] for r in plain]
    assert "rouge_l" in written("evaluate", "--hypotheses", out, "--references", test)
    for cut in (lines[0] + lines[1][:9], lines[0] + lines[1][:30]):
        out.write_text(cut, encoding="utf-8")
        written(*generate_arguments(runs, test, out), "--resume")
        assert out.read_text(encoding="utf-8") == "".join(lines)
    # An unfinished line of another id is not ours to cut off.
    out.write_text(lines[0] + lines[2][:30], encoding="utf-8")
    assert main([*map(str, generate_arguments(runs, test, out)), "--resume"]) == 2
    assert "unfinished line that is not output" in capsys.readouterr().err


def test_later_batches_need_no_program_of_their_own(runs, sources, monkeypatch):
    writer = dj.Generator.from_checkpoint(runs["pair"], weights="ema", step=None)
    shapes = set()

    def watch(params, keys, ids, mask):
        shapes.add(ids.shape)
        return ids

    watched = replace(writer, reverse=watch)
    texts = sources.read_text(encoding="utf-8").splitlines()
    assert len(list(watched.generate(texts, batch_size=16))) == NUM_SOURCES
    assert shapes == {(16, writer.config.data.length)}


def test_describe_a_run_and_an_experiment(runs, written):
    shown = written("describe", runs["text"])
    assert '"name": "small-text"' in shown
    assert "checkpoints: 1" in shown
    shown = written("describe", FILE, "--scale", "pair", "--vocab-size", "50")
    assert "50x8" in shown
    assert "training state:" in shown
    shown = written("describe", FILE, "--vocab-size", "50", "--model.embed-dim", "12")
    assert "50x12" in shown


def test_a_run_that_fails_says_so_on_one_line(monkeypatch, tmp_path, capsys):
    from diffusion_jax import experiment

    def fail(*arguments, **options):
        raise RunError("the loss is not finite at step 7")

    monkeypatch.setattr(experiment, "train", fail)
    assert main(["train", FILE, "--scale", "text", "-w", str(tmp_path / "w")]) == 1
    error = capsys.readouterr().err
    assert error == "diffusion-jax: error: the loss is not finite at step 7\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (PermissionError(13, "Permission denied", "/somewhere"), 2),
        (OSError(28, "No space left on device"), 1),
    ],
)
def test_other_ends_have_their_exit_codes(monkeypatch, tmp_path, capsys, error, code):
    from diffusion_jax import experiment

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(experiment, "train", fail)
    assert main(["train", FILE, "--scale", "text", "-w", str(tmp_path / "w")]) == code
    assert capsys.readouterr().err.count("\n") == 1


def python(code, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
        **options,
    )


def test_the_package_is_loaded_without_jax_and_offers_its_names():
    done = python(
        "import sys, diffusion_jax as dj\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules\n"
        "dj.ExperimentConfig, dj.load_experiment, dj.TrainConfig, dj.load_grammar\n"
        "assert 'jax' not in sys.modules\n"
        "import diffusion_jax.cli.train\n"
        "assert 'jax' not in sys.modules\n"
        "print(len(dir(dj)))\n"
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(dj.__all__)


def test_every_public_name_is_there():
    for name in dj.__all__:
        assert getattr(dj, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Generater'"):
        _ = dj.Generater


@pytest.mark.parametrize("arguments", ["--help", "train --help"])
def test_a_reader_that_leaves_early_is_no_error(arguments):
    # Buffered output meets the closed pipe only when the program ends.
    buffered = "unset PYTHONUNBUFFERED"
    command = f"{buffered}; {sys.executable} -m diffusion_jax {arguments}; echo code $? >&2"
    done = subprocess.run(
        ["bash", "-c", f"({command}) | true"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.stderr == "code 0\n"
