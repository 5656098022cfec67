"""Experiment files and the command line over them: what is read, what wins, what is refused."""

import json
import re
import runpy
from pathlib import Path

import pytest

from diffusion_jax.cli import main
from diffusion_jax.cli.train import _defaults
from diffusion_jax.config import ExperimentConfig, TrainConfig
from diffusion_jax.config_io import load_experiment
from diffusion_jax.errors import UserError

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.py"))
HEAD = "from diffusion_jax.config import ExperimentConfig, TrainConfig\n"
GOOD = HEAD + (
    "def config(scale='full'):\n"
    "    if scale not in ('full', 'small'):\n"
    "        raise ValueError(f'scale is {scale!r}; choose full or small')\n"
    "    steps = 100 if scale == 'full' else 10\n"
    "    return ExperimentConfig(name='mine', train=TrainConfig(steps=steps, batch_size=8))\n"
)


def write(tmp_path, text, name="mine.py"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_python_file_and_its_scales(tmp_path):
    path = write(tmp_path, GOOD)
    assert load_experiment(path).train.steps == 100
    assert load_experiment(path, "small").train.steps == 10


def test_a_json_file(tmp_path):
    config = ExperimentConfig(train=TrainConfig(steps=7))
    assert load_experiment(write(tmp_path, config.to_json(), "mine.json")) == config


@pytest.fixture
def defaults(tmp_path):
    """Return what an experiment with a corpus and a tokenizer becomes among arguments."""
    text = HEAD.replace("import", "import DataConfig, TokenizerConfig,") + (
        "def config(scale='full'):\n"
        "    return ExperimentConfig(data=DataConfig(corpus='a.txt', validation='b.txt'),\n"
        "        tokenizer=TokenizerConfig(kind='word', min_count=3))\n"
    )
    path = write(tmp_path, text)
    return lambda *arguments: _defaults([path, *arguments]).config


def test_another_corpus_is_not_validated_on_the_files_of_this_one(defaults):
    assert defaults().data.validation == "b.txt"
    assert defaults("--data.corpus", "mine.txt").data.validation == ""
    assert defaults("--data.corpus=mine.txt").data.validation == ""
    both = defaults("--data.corpus", "mine.txt", "--data.validation", "c.txt")
    assert both.data.validation == "b.txt"


def test_another_kind_of_tokenizer_does_not_inherit_from_this_one(defaults):
    assert defaults().tokenizer.min_count == 3
    assert defaults("--tokenizer.kind", "word").tokenizer.min_count == 3
    assert defaults("--tokenizer.kind", "sentencepiece").tokenizer.min_count is None
    assert defaults("--tokenizer.kind=sentencepiece").tokenizer.min_count is None


def test_the_recommended_recipe_has_the_published_size():
    path = str(next(path for path in EXPERIMENTS if path.stem == "qqp"))
    full, base, small = (load_experiment(path, scale) for scale in ("full", "base", "small"))
    assert base.model.hidden_dim == full.model.hidden_dim
    assert base.model.num_layers == full.model.num_layers
    assert (base.sample, base.diffusion) == (small.sample, small.diffusion)
    assert base.model.length_head
    assert base.data.length_bucket > 0


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
@pytest.mark.parametrize("scale", ["full", "small"])
def test_our_experiments_are_configurations(path, scale):
    assert isinstance(load_experiment(str(path), scale), ExperimentConfig)
    assert "Command: diffusion-jax train" in runpy.run_path(str(path))["__doc__"]


def commands_of(path):
    """Return the arguments of the commands in an experiment's docstring, optional scales too."""
    stated = runpy.run_path(str(path))["__doc__"]
    for command in re.findall(
        r"diffusion-jax train (.+?)(?=\n    or|\n    then|\n[A-Z])", stated, re.S
    ):
        words = " ".join(command.split())
        optional = re.search(r"\[--scale (.+?)\]", words)
        for scale in (
            ["", *(f"--scale {name}" for name in optional[1].split("|"))] if optional else [""]
        ):
            yield re.sub(r"\[.+?\]", scale, words).split()


COMMANDS = [(path, words) for path in EXPERIMENTS for words in commands_of(path)]


@pytest.mark.parametrize(("path", "words"), COMMANDS, ids=lambda value: str(value)[-60:])
def test_the_commands_of_docstrings_are_accepted(path, words, train_call, monkeypatch):
    monkeypatch.chdir(path.parents[1])
    assert train_call(*words)
    assert words[0] == f"experiments/{path.name}"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_scale_that_is_told_apart_has_a_command(path):
    named = " ".join(word for other, words in COMMANDS if other == path for word in words)
    for scale in re.findall(r'scale == "(\w+)"', path.read_text(encoding="utf-8")):
        assert scale == "full" or f"--scale {scale}" in named


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", r"no function config\(scale\)"),
        ("def config(scale):\n    return {}\n", "returned dict, not an ExperimentConfig"),
        ("def config(:\n", "line 1: SyntaxError"),
        ("import no_such_module_here\n", "line 1: ModuleNotFoundError: No module named"),
        (
            HEAD + "def config(scale):\n    return ExperimentConfig(train=TrainConfig(step=3))\n",
            "line 3: TrainConfig has no field step; did you mean steps?",
        ),
        (
            "from diffusion_jax import DenoiserConfig, ExperimentConfig\n"
            "def config(scale):\n    return ExperimentConfig(model=DenoiserConfig(hiden_dim=3))\n",
            "line 3: DenoiserConfig has no field hiden_dim; did you mean hidden_dim?",
        ),
        (
            HEAD + "def config(scale):\n    return ExperimentConfig(trian=TrainConfig())\n",
            "line 3: ExperimentConfig has no field trian; did you mean train?",
        ),
        (
            HEAD + "def config(scale):\n    return ExperimentConfig(train=TrainConfig(steps=0))\n",
            "line 3: train.steps = 0 is not allowed",
        ),
        (
            HEAD.replace("import", "import SampleConfig,")
            + "def config(scale):\n"
            + "    return ExperimentConfig(sample=SampleConfig(sampler='dpm'))\n",
            "line 3: sample.sampler = 'dpm' is not allowed; give one of 'ddpm', 'ddim'",
        ),
        ("def config():\n    return 1\n", r"TypeError: config\(\) takes 0 positional"),
    ],
)
def test_a_bad_python_file_is_refused_with_its_name_and_line(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        load_experiment(path)
    assert path in str(caught.value)


def test_an_unknown_scale_is_refused(tmp_path):
    with pytest.raises(UserError, match="scale is 'huge'; choose full or small"):
        load_experiment(write(tmp_path, GOOD), "huge")


def test_missing_and_unreadable_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.py does not exist"):
        load_experiment(str(tmp_path / "none.py"))
    latin = tmp_path / "latin.json"
    latin.write_bytes(b'{"name": "caf\xe9"}')
    with pytest.raises(UserError, match=r"latin\.json: 'utf-8' codec"):
        load_experiment(str(latin))


@pytest.fixture
def train_call(monkeypatch):
    """Return what the command line hands to the training."""
    from diffusion_jax import experiment

    calls = []
    monkeypatch.setattr(
        experiment, "train", lambda config, workdir, *, resume: calls.append((config, workdir))
    )

    def call(*arguments):
        assert main(["train", *arguments]) == 0
        return calls[-1][0]

    return call


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path, train_call):
    path = write(tmp_path, GOOD)
    config = train_call(
        path, "--workdir", "w", "--train.batch-size", "4", "--optim.betas", "0", "0.5"
    )
    assert config.train.batch_size == 4
    assert config.train.steps == 100
    assert config.train.log_every == TrainConfig().log_every
    assert config.optim.betas == (0.0, 0.5)


@pytest.mark.parametrize("scale", [["--scale", "small"], ["--scale=small"]])
def test_the_scale_reaches_the_file(tmp_path, train_call, scale):
    assert train_call(*scale, write(tmp_path, GOOD), "-w", "w").train.steps == 10


@pytest.mark.parametrize(
    "before",
    [
        ["--resume"],
        ["--model.no-self-conditioning"],
        ["--tokenizer.vocab-file", "vocab.json"],
        ["--tokenizer.vocab-file=vocab.json"],
        ["-w", "runs/x.py"],
    ],
    ids=" ".join,
)
def test_the_experiment_is_told_from_the_values_of_options(tmp_path, train_call, before):
    end = [] if "-w" in before else ["--workdir", "w"]
    assert train_call(*before, write(tmp_path, GOOD), *end).name == "mine"


def test_the_resolved_configuration_is_itself_an_experiment(tmp_path, train_call):
    path = write(tmp_path, json.dumps({"train": {"steps": 5}}), "resolved.json")
    assert train_call(path, "-w", "w", "--train.seed", "3").train == TrainConfig(steps=5, seed=3)
