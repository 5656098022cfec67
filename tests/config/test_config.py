"""Configurations: checked when built, JSON both ways, what differs between two."""

import dataclasses
import json
import math

import numpy as np
import pytest

from diffusion_jax.config import (
    AutoregressiveRunConfig,
    ClassifierRunConfig,
    DataConfig,
    DiffusionConfig,
    ExperimentConfig,
    GuidanceConfig,
    MeshConfig,
    OptimConfig,
    SampleConfig,
    TokenizerConfig,
    TrainConfig,
)
from diffusion_jax.config_io import differences, from_json
from diffusion_jax.errors import UserError
from diffusion_jax.models.shape import ClassifierConfig
from diffusion_jax.models.spec import DenoiserConfig

V2 = {"faithful_v2": True, "variance": "fixed_large"}
REFUSED = [
    (DataConfig, {"corpus": ""}, "data.corpus"),
    (DataConfig, {"length": 4}, "data.length = 4"),
    (DataConfig, {"size": -1}, "data.size = -1"),
    (DataConfig, {"validation_size": -1}, "data.validation_size"),
    (DataConfig, {"task": "pair", "packing": "block"}, "data.packing"),
    (DataConfig, {"task": "pair", "columns": ("a",)}, "2 column name"),
    (DataConfig, {"columns": ("a", "b")}, "1 column name"),
    (DataConfig, {"where": ("language",)}, "column=value"),
    (TokenizerConfig, {"vocab_size": 100}, "belongs to kind 'sentencepiece'"),
    (TokenizerConfig, {"lowercase": True}, "belongs to kind 'wordpiece' or 'sentencepiece'"),
    (
        TokenizerConfig,
        {"kind": "sentencepiece", "vocab_file": "a.model", "lowercase": True},
        "tokenizer.lowercase = True is not allowed; give nothing with tokenizer.vocab_file = 'a.m",
    ),
    (TokenizerConfig, {"kind": "sentencepiece", "min_count": 3}, "belongs to kind 'word'"),
    (TokenizerConfig, {"kind": "wordpiece"}, "vocab.txt"),
    (TokenizerConfig, {"min_count": -1}, "tokenizer.min_count"),
    (TokenizerConfig, {"kind": "sentencepiece", "vocab_size": 2}, "at least 8"),
    (DiffusionConfig, {"timesteps": 1}, "diffusion.timesteps = 1"),
    (DiffusionConfig, {"self_cond_rate": 1.5}, "diffusion.self_cond_rate = 1.5"),
    (OptimConfig, {"learning_rate": 0.0}, "optim.learning_rate"),
    (OptimConfig, {"learning_rate": float("nan")}, "optim.learning_rate"),
    (OptimConfig, {"warmup_steps": -1}, "optim.warmup_steps"),
    (OptimConfig, {"weight_decay": -0.1}, "optim.weight_decay"),
    (OptimConfig, {"clip_norm": -1.0}, "optim.clip_norm"),
    (OptimConfig, {"eps": 0.0}, "optim.eps"),
    (OptimConfig, {"betas": (0.9, 1.0)}, "optim.betas"),
    (OptimConfig, {"betas": (0.9,)}, "two numbers"),
    (TrainConfig, {"steps": 0}, "train.steps = 0"),
    (TrainConfig, {"batch_size": 0}, "train.batch_size"),
    (TrainConfig, {"log_every": 0}, "train.log_every"),
    (TrainConfig, {"checkpoint_every": 0}, "train.checkpoint_every"),
    (TrainConfig, {"validate_every": -1}, "train.validate_every"),
    (TrainConfig, {"preview_every": -1}, "train.preview_every"),
    (TrainConfig, {"keep_checkpoints": 1}, "train.keep_checkpoints = 1"),
    (TrainConfig, {"seed": -1}, "train.seed"),
    (TrainConfig, {"batch_size": 10, "microbatches": 3}, "divisor of train.batch_size = 10"),
    (TrainConfig, {"ema_rates": (1.0,)}, "train.ema_rates"),
    (SampleConfig, {"steps": 0}, "sample.steps"),
    (SampleConfig, {"sampler": "ddim", "eta": 2.0}, "sample.eta = 2.0"),
    (SampleConfig, {"eta": 0.5}, 'nothing with sampler "ddpm": it is for ddim only'),
    (SampleConfig, {"sampler": "ddim", "variance": "fixed_large"}, "it is for ddpm only"),
    (SampleConfig, {"sampler": "ddim", "order": 3}, "it is for dpm++ only"),
    (SampleConfig, {"method": "singlestep"}, "it is for dpm++ only"),
    (SampleConfig, {"sampler": "dpm++", "eta": 0.5}, "it is for ddim only"),
    (SampleConfig, {"sampler": "dpm++", "order": 4}, "1, 2 or 3"),
    (SampleConfig, {"sampler": "dpm++", "noise_bound": 2.0}, "draws no noise"),
    (SampleConfig, {"time_shift": 1.0}, "below 1"),
    (SampleConfig, {"sampler": "ddim", "faithful_v2": True}, "it is for ddpm and dpm++ only"),
    (SampleConfig, {**V2, "time_shift": 0.1}, "0.0 with faithful_v2"),
    (SampleConfig, {**V2, "spacing": "linspace"}, "with faithful_v2"),
    (SampleConfig, {**V2, "noise_scale": 0.7}, "1.0 with faithful_v2"),
    (SampleConfig, {**V2, "guidance_scale": 2.0}, "1.0 with faithful_v2"),
    (SampleConfig, {"faithful_v2": True}, "fixed_large with faithful_v2"),
    (SampleConfig, {"sampler": "dpm++", "faithful_v2": True, "order": 3}, "2 with faithful_v2"),
    (SampleConfig, {"sampler": "dpm++", "steps": 4, "order": 3}, "5 steps or more with it"),
    (
        SampleConfig,
        {"sampler": "dpm++", "method": "singlestep", "steps": 3, "order": 3},
        "4 steps or more with it: no step of 3 could be of order 3",
    ),
    (SampleConfig, {"sampler": "dpm++", "steps": 2, "method": "singlestep"}, "3 steps or more"),
    (SampleConfig, {"guidance_scale": math.inf}, "a number from 0"),
    (DiffusionConfig, {"absorb_rate": 1.5}, "a probability"),
    (DiffusionConfig, {"mean_embed_penalty": -1.0}, "0 or more"),
    (SampleConfig, {"sampler": "ddim", "noise_bound": 2.0}, "draws no noise"),
    (SampleConfig, {"noise_bound": -1.0}, "sample.noise_bound"),
    (SampleConfig, {"noise_scale": 1.5}, "sample.noise_scale"),
    (SampleConfig, {"sampler": "dpm++", "noise_scale": 0.5}, "draws no noise to scale"),
    (MeshConfig, {"data": 0}, "mesh.data"),
    (MeshConfig, {"fsdp": 0}, "mesh.fsdp"),
    (MeshConfig, {"tensor": 0}, "mesh.tensor"),
    # What the annotations of the fields exclude.
    (SampleConfig, {"sampler": "dpm-solver++"}, "give one of 'ddpm', 'ddim', 'dpm++'"),
    (SampleConfig, {"clamp": "lats"}, "give one of 'all', 'last', 'none'"),
    (SampleConfig, {"rounding": "nearets"}, "give one of 'head', 'nearest'"),
    (SampleConfig, {"spacing": ["trailing"]}, "give one of 'trailing'"),
    (SampleConfig, {"steps": "10"}, "sample.steps = '10' is not allowed; give a value of type int"),
    (SampleConfig, {"steps": 10.0}, "a value of type int"),
    (SampleConfig, {"faithful_v2": 1}, "a value of type bool"),
    (DataConfig, {"task": "pairs"}, "data.task = 'pairs'"),
    (DataConfig, {"columns": ["a", "b"]}, "give a tuple, each of its items a value of type str"),
    (DataConfig, {"columns": "ab"}, "give a tuple"),
    (TokenizerConfig, {"kind": "bpe"}, "tokenizer.kind = 'bpe'"),
    (TokenizerConfig, {"min_count": "2"}, "a value of type int or None"),
    (DiffusionConfig, {"objective": "ce"}, "diffusion.objective = 'ce'"),
    (OptimConfig, {"decay": "exponential"}, "optim.decay"),
    (OptimConfig, {"betas": (0.9, "0.99")}, "optim.betas"),
    (TrainConfig, {"steps": True}, "train.steps = True"),
    (MeshConfig, {"data": "2"}, "mesh.data = '2'"),
    (GuidanceConfig, {"method": "adam"}, "method = 'adam'"),
    (ClassifierRunConfig, {"reads": "both"}, "reads = 'both'"),
    (AutoregressiveRunConfig, {"prefix": "tags"}, "prefix = 'tags'"),
    (ExperimentConfig, {"sample": {"steps": 5}}, "give a value of type SampleConfig"),
    (ClassifierConfig, {"num_layers": "2"}, "model.num_layers = '2'"),
    (DenoiserConfig, {"dropout": "0.1"}, "model.dropout = '0.1'"),
    (DenoiserConfig, {"num_heads": 5}, "divisor of hidden_dim"),
    (DenoiserConfig, {"dropout": 1.0}, "model.dropout"),
    (DenoiserConfig, {"norm": "middle"}, "one of 'post', 'pre'"),
]


@pytest.mark.parametrize(
    ("section", "fields", "message"), REFUSED, ids=lambda value: str(value)[:40]
)
def test_a_value_out_of_range_is_named(section, fields, message):
    with pytest.raises(UserError) as caught:
        section(**fields)
    assert message in str(caught.value)
    assert next(reversed(fields)) in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"sample": SampleConfig(steps=3000)}, "at most diffusion.timesteps = 2000"),
        ({"diffusion": DiffusionConfig(self_cond_rate=0.5)}, "--model.self-conditioning"),
        ({"diffusion": DiffusionConfig(absorb_rate=0.5)}, "--model.mean-embed"),
        ({"sample": SampleConfig(**V2)}, "this model has no mean_embed"),
    ],
)
def test_sections_that_do_not_fit_together_are_refused(sections, message):
    with pytest.raises(UserError, match=message):
        ExperimentConfig(**sections)


def test_another_sampler_brings_its_own_defaults():
    """What only the old sampler honours falls back; what is given with the new one stays."""
    old = SampleConfig(variance="fixed_large", noise_bound=2.0, steps=2000, spacing="quadratic")
    new = old.changed(sampler="dpm++", order=3)
    assert new == SampleConfig(sampler="dpm++", order=3, steps=2000, spacing="quadratic")
    assert old.changed(sampler="ddim", eta=1.0).noise_bound == 2.0
    assert new.changed(sampler="ddim") == SampleConfig(
        sampler="ddim", steps=2000, spacing="quadratic"
    )
    assert old.changed(steps=5).variance == "fixed_large"
    tuned = SampleConfig(noise_scale=0.7, time_shift=0.05, noise_bound=2.0, steps=20)
    assert tuned.changed(faithful_v2=True) == SampleConfig(**V2, steps=20)
    assert tuned.changed(faithful_v2=True, sampler="dpm++") == SampleConfig(
        faithful_v2=True, sampler="dpm++", steps=20
    )
    with pytest.raises(ValueError, match="time_shift"):
        tuned.changed(faithful_v2=True, time_shift=0.1)
    with pytest.raises(UserError, match=r"sample.eta.*for ddim only"):
        old.changed(sampler="dpm++", eta=0.5)


UNUSUAL = ExperimentConfig(
    name="unusual",
    data=DataConfig(task="pair", columns=("question", "answer"), where=("language=en",)),
    tokenizer=TokenizerConfig(kind="sentencepiece", vocab_size=500),
    model=DenoiserConfig(vocab_size=500, dropout=0.25),
    optim=OptimConfig(betas=(0.5, 0.75)),
    train=TrainConfig(ema_rates=(0.5, 0.9), tensorboard=True),
)


@pytest.mark.parametrize("config", [ExperimentConfig(), UNUSUAL], ids=lambda c: c.name)
def test_json_there_and_back_is_the_same(config):
    back = from_json(config.to_json())
    assert back == config
    assert type(back.train.ema_rates) is tuple


def changed(**sections):
    values = json.loads(ExperimentConfig().to_json())
    for name, fields in sections.items():
        values[name] = {**values[name], **fields} if isinstance(fields, dict) else fields
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1, 2]", "JSON list, not an object"),
        ('{"trian": {}}', "unknown configuration field trian; did you mean train?"),
        (changed(train={"batch_sise": 4}), "train.batch_sise; did you mean train.batch_size?"),
        (changed(train={"zzzzzz": 4}), "unknown configuration field train.zzzzzz$"),
        (changed(train=7), "train must be an object with fields, got 7"),
        (changed(train={"steps": "many"}), "train.steps = 'many' is not allowed; give a value of "),
        (changed(train={"steps": True}), "train.steps = True"),
        (changed(train={"steps": 2.5}), "train.steps = 2.5"),
        (changed(train={"ema_rates": 0.9}), "train.ema_rates = 0.9 is not allowed; give a list"),
        (changed(data={"task": "poem"}), "data.task = 'poem' is not allowed; give one of 'text'"),
        (changed(optim={"betas": [0.9]}), "optim.betas"),
    ],
)
def test_json_that_is_no_configuration_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        from_json(text)


def test_numbers_of_numpy_are_numbers():
    SampleConfig(steps=np.int64(5), time_shift=np.float32(0.25), guidance_scale=2)


def test_an_integer_is_taken_for_a_float():
    config = from_json(changed(optim={"learning_rate": 1}))
    assert type(config.optim.learning_rate) is float


def test_differences_name_the_fields_and_both_values():
    old = ExperimentConfig()
    new = dataclasses.replace(
        old, name="other", train=dataclasses.replace(old.train, batch_size=8, ema_rates=())
    )
    assert differences(old, old) == {}
    assert differences(old, new) == {
        "name": ("run", "other"),
        "train.batch_size": (64, 8),
        "train.ema_rates": ((0.9999,), ()),
    }
