"""From text to a trained run and on: train, stop, resume, write; with the real network."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

import diffusion_jax as dj
from diffusion_jax import quickstart
from diffusion_jax.cli import main
from diffusion_jax.config_io import load_experiment
from diffusion_jax.program import Program
from diffusion_jax.scale.flops import traced_flops
from diffusion_jax.train.progress import ProgressReport
from diffusion_jax.workdir import Workdir
from tests.integration.small import FILE

ROOT = Path(__file__).parents[2]
CLOCKS = ("step_seconds", "data_wait_seconds", "tokens_per_second")


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Keep compiled programs on disk: a run that goes on needs those of the run before."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def metrics(workdir):
    """Read the metrics of a run without what depends on the clock."""
    rows = [json.loads(line) for line in Workdir(workdir).metrics_file.read_text().splitlines()]
    return [{name: row[name] for name in row if name not in CLOCKS} for row in rows]


def previews(workdir):
    return Workdir(workdir).samples_file.read_text(encoding="utf-8").splitlines()


class SignalAt(ProgressReport):
    """A quiet report that sends a signal to this process after one step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def __call__(self, event):
        if event.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def train_arguments(scale, workdir, *more):
    return ["train", FILE, "--scale", scale, "--workdir", str(workdir), *more]


def stop_and_go_on(scale, workdir, capsys):
    """Train by a signal after step 9 and then, by the command, to the end."""
    stopped = dj.train_experiment(load_experiment(FILE, scale), workdir, report=SignalAt(9))
    assert stopped.fit.stopped_by == "SIGTERM"
    assert Workdir(workdir).checkpoints().steps()[-1] == stopped.fit.step == 10
    capsys.readouterr()
    again = train_arguments(scale, workdir, "--resume", "--train.log-every", "2")
    assert main(again) == 0
    return capsys.readouterr()


def test_pairs_from_training_over_a_stop_to_text(tmp_path, capsys):
    streams = stop_and_go_on("pair", tmp_path / "run", capsys)
    assert streams.out == ""
    assert "going on from step 10" in streams.err
    assert '"log_every": 2' in streams.err
    assert Workdir(tmp_path / "run").read_config().train.log_every == 2
    rows = metrics(tmp_path / "run")
    assert [row["step"] for row in rows if "total" in row] == [*range(1, 11), 12, 14, 16, 18, 20]
    assert [row["step"] for row in rows if "validation/total" in row] == [10, 20]
    shown = json.loads(previews(tmp_path / "run")[-1])["samples"][0]
    assert " => " in shown
    (tmp_path / "in.txt").write_text(shown.split(" => ")[0] + "\n", encoding="utf-8")
    writing = ["generate", str(tmp_path / "run"), "-i", str(tmp_path / "in.txt")]
    assert main(writing) == 0
    record = json.loads(capsys.readouterr().out)
    # The preview of the last step was written with the same averaged parameters, seed and index.
    assert record["candidates"] == [shown.split(" => ")[1]]


@pytest.fixture
def cache_hits():
    """Let runs keep their programs as a user's would, and count those that are found again."""
    shared = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    hits = []
    jax.monitoring.register_event_listener(
        lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None
    )
    yield hits
    jax.config.update("jax_compilation_cache_dir", shared)
    compilation_cache.reset_cache()


def flops_of_a_step(workdir):
    """Count the matrix products of one step of a run, from its configuration alone."""
    config = Workdir(workdir).read_config()
    program, shape = Program.build(config), (config.train.batch_size, config.data.length)
    batch = {
        "input_ids": jax.ShapeDtypeStruct(shape, jnp.int32),
        "noise_mask": jax.ShapeDtypeStruct(shape, jnp.bool_),
    }
    return traced_flops(program.train_step(), program.abstract_state(), batch, jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["text", "pair"])
def test_a_stopped_run_goes_on_bit_for_bit(scale, tmp_path, capsys, cache_hits):
    assert main(train_arguments(scale, tmp_path / "whole", "--train.log-every", "2")) == 0
    cache_hits.clear()
    streams = stop_and_go_on(scale, tmp_path / "parts", capsys)
    # The second session took its training step from the first one, and says where its time went.
    assert len(list((tmp_path / "parts").glob("compiled/*/jit_train_step*-cache"))) == 1
    assert cache_hits
    assert "10 steps in " in streams.err
    timings = (tmp_path / "parts" / "timings.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(json.loads(line)["step"], json.loads(line)["steps"]) for line in timings] == [
        (10, 10),
        (20, 10),
    ]
    summary = json.loads(timings[-1])
    operations = summary["flops_per_second"] * sum(
        summary["seconds"][part] for part in ("input", "compute", "metrics", "other")
    )
    assert operations == pytest.approx(10 * flops_of_a_step(tmp_path / "parts"), rel=1e-4)
    assert 0 < summary["utilisation"] < 1.5
    whole = metrics(tmp_path / "whole")
    parts = [row for row in metrics(tmp_path / "parts") if row["step"] % 2 == 0]
    assert whole == parts
    assert previews(tmp_path / "whole") == previews(tmp_path / "parts")


def run_process(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "diffusion_jax", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
        **options,
    )


@pytest.mark.slow
def test_a_process_is_stopped_by_a_signal_or_killed_and_goes_on(tmp_path):
    """A run that was killed before its first checkpoint starts again; SIGTERM saves and ends."""
    more = ["--train.steps", "100000", "--train.preview-every", "0", "--train.validate-every", "0"]
    arguments = train_arguments("text", tmp_path / "run", *more)

    def start_and_send(number, *options):
        process = run_process(*arguments, *options)
        for line in process.stderr:
            if line.startswith("step "):
                break
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
        return process.returncode, error

    code, _ = start_and_send(signal.SIGKILL, "--train.checkpoint-every", "100000")
    assert code == -signal.SIGKILL
    assert Workdir(tmp_path / "run").checkpoints().steps() == []
    code, error = start_and_send(signal.SIGTERM, "--resume")
    assert code == 0, error
    assert "the state is saved" in error
    assert Workdir(tmp_path / "run").checkpoints().steps()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
def test_other_tokenizers_from_text_to_text(kind, tmp_path, capsys):
    grammar = dj.load_grammar("small")
    texts = [sentence.text for sentence in grammar.corpus(0, 64, "train")]
    (tmp_path / "corpus.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    options = ["--tokenizer.kind", kind, "--tokenizer.min-count", "None"]
    if kind == "sentencepiece":
        options += ["--tokenizer.vocab-size", "100"]
    else:
        words = sorted({word for text in texts for word in text.split()})
        letters = sorted({letter for word in words for letter in word})
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *words]
        vocabulary = tmp_path / "vocab.txt"
        vocabulary.write_text("\n".join(dict.fromkeys(pieces)) + "\n", encoding="utf-8")
        options += ["--tokenizer.vocab-file", str(vocabulary)]
    options += ["--data.corpus", str(tmp_path / "corpus.txt"), "--data.on-long", "truncate"]
    options += ["--train.steps", "5", "--train.preview-every", "0"]
    assert main(train_arguments("text", tmp_path / "run", *options)) == 0
    assert main(["sample", str(tmp_path / "run"), "-n", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("task", ["text", "seq2seq"])
def test_a_quickstart_reports_and_can_be_used(task, tmp_path, capsys, monkeypatch):
    for name in ("NUM_SAMPLES", "ENTROPY_SENTENCES"):
        monkeypatch.setattr(quickstart, name, 16)
    workdir = str(tmp_path / "run")
    assert main(["quickstart", "--task", task, "--workdir", workdir, "--steps", "6"]) == 0
    shown = capsys.readouterr().out
    assert "Of 16 samples" in shown
    report = json.loads((tmp_path / "run" / "quickstart.json").read_text())
    assert report["steps"] == 6
    assert report["num_samples"] == 16
    assert 0 <= report["in_language"] <= 1
    assert (report["says_exactly"] is None) == (task == "text")
    assert (report["bound"] is None) == (task == "seq2seq")
    assert report["entropy"] > 0
    assert f"{workdir}" in shown
    assert main(["quickstart", "--task", task, "--workdir", workdir, "--steps", "6"]) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_quickstart_that_is_stopped_reports_nothing(tmp_path, monkeypatch, capsys):
    class Stopped:
        fit = type("Fit", (), {"stopped_by": "SIGINT"})

    monkeypatch.setattr(quickstart, "train", lambda *arguments, **options: Stopped)
    assert quickstart.run("text", "small", tmp_path / "run") is None
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run").exists()
