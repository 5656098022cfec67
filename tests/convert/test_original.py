"""Checkpoints of the original programs: what comes out computes what they computed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.cli import main
from diffusion_jax.convert.families import choose_family
from diffusion_jax.convert.names import infer_spec, original_shapes
from diffusion_jax.convert.original import convert_original, read_original
from diffusion_jax.errors import UserError
from diffusion_jax.generate import Generator, with_sample_options
from diffusion_jax.models.transformer import transformer_denoiser
from diffusion_jax.rounding import logits
from diffusion_jax.workdir import Workdir
from tests.golden.torch_params import DATA, original_arrays

EMA_FILE = DATA / "ema_0.9_000003.pt"
# The original differs from its own float64 run by about 1e-6 here.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "ema_checkpoint.npz") as arrays:
        return dict(arrays)


def load(workdir):
    config = Workdir(workdir).read_config()
    return transformer_denoiser(config.model), Workdir(workdir).read_params(config)


def test_a_converted_run_computes_what_the_original_computes(tmp_path, vocab_json, golden):
    convert_original(EMA_FILE, tmp_path / "run", vocab_json, num_heads=4, length=24)
    model, params = load(tmp_path / "run")
    x, time = jnp.asarray(golden["x"]), jnp.asarray(golden["t"])
    out = jax.jit(model.denoise)(params, x, time)
    np.testing.assert_allclose(out, golden["forward"], atol=TOLERANCE)
    np.testing.assert_allclose(out, golden["forward_float64"], atol=TOLERANCE)
    ids = jnp.asarray(golden["ids"], jnp.int32)
    np.testing.assert_array_equal(model.embed(params, ids), golden["embeds"])
    np.testing.assert_allclose(
        logits(model.head(params), x), golden["logits"], rtol=TOLERANCE, atol=TOLERANCE
    )


def test_which_embedding_is_taken(golden):
    raw = read_original(EMA_FILE, num_heads=4)
    averaged = read_original(EMA_FILE, num_heads=4, embedding_source="word_embedding")
    assert (raw.embedding_source, averaged.embedding_source) == ("lm_head", "word_embedding")
    np.testing.assert_array_equal(raw.params["embedding"], golden["file/lm_head.weight"])
    np.testing.assert_array_equal(
        averaged.params["embedding"], golden["file/word_embedding.weight"]
    )
    gap = np.abs(golden["file/lm_head.weight"] - golden["file/word_embedding.weight"]).max()
    assert raw.embedding_gap == averaged.embedding_gap == pytest.approx(gap)
    assert gap > 1e-3
    with pytest.raises(UserError, match="choose one of lm_head, word_embedding"):
        read_original(EMA_FILE, embedding_source="both")


@pytest.mark.parametrize("name", ["dlm_model", "dseq_model", "dseq_noproj_model", "dseq2_model"])
def test_shapes_of_the_originals(name):
    with np.load(DATA / f"{name}.npz") as golden:
        arrays = original_arrays(dict(golden))
    del arrays["position_ids"]
    assert original_shapes(infer_spec(arrays, 4)) == {key: a.shape for key, a in arrays.items()}


def test_published_sizes():
    """The parameter count of DiffuSeq, as instantiated from the original code: 91,225,274."""
    shapes = original_shapes(infer_spec(_published_arrays()))
    tied_once = {name: shape for name, shape in shapes.items() if name != "lm_head.weight"}
    assert sum(int(np.prod(shape)) for shape in tied_once.values()) == 91_225_274


def _published_arrays():
    def empty(*shape):
        return np.broadcast_to(np.float32(0), shape)

    layers = {
        f"input_transformers.layer.{i}.intermediate.dense.weight": empty(3072, 768)
        for i in range(12)
    }
    return {
        "word_embedding.weight": empty(30522, 128),
        "position_embeddings.weight": empty(512, 768),
        "time_embed.0.weight": empty(512, 128),
        **layers,
    }


# The run directory.


def test_settings_of_diffusion_lm(tmp_path, vocab_json, write_network):
    done = convert_original(write_network(), tmp_path / "run", vocab_json, num_heads=4, length=24)
    config = Workdir(tmp_path / "run").read_config()
    assert config == done.config
    assert done.family == "diffusion-lm"
    assert (config.data.task, config.data.length) == ("text", 24)
    assert (config.diffusion.schedule, config.diffusion.timesteps) == ("sqrt", 2000)
    assert (config.sample.sampler, config.sample.variance) == ("ddpm", "fixed_small")
    assert (config.sample.steps, config.sample.clamp) == (2000, "all")
    assert (config.model.norm, config.model.num_layers) == ("post", 2)
    assert Workdir(tmp_path / "run").checkpoints().steps() == [42]
    texts = Generator.from_checkpoint(tmp_path / "run", steps=2).sample(2)
    assert len(texts) == 2


def test_settings_of_diffuseq(tmp_path, word_list, write_network):
    path = write_network("dseq_model")
    done = convert_original(path, tmp_path / "run", word_list, num_heads=4, length=24)
    config = done.config
    assert (done.family, config.name) == ("diffuseq", "diffuseq")
    assert (config.data.task, config.sample.variance) == ("pair", "fixed_large")
    assert config.diffusion.timestep_sampler == "loss_aware"
    model, params = load(tmp_path / "run")
    made = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, made)


def test_parameters_of_diffuseq_v2(tmp_path, vocab_json, write_network):
    """They make a run whose published chain can be asked for."""
    file = write_network("dseq2_model")
    original = read_original(file, num_heads=4)
    assert original.spec.mean_embed
    convert_original(file, tmp_path / "run", vocab_json, num_heads=4, length=24)
    config = Workdir(tmp_path / "run").read_config()
    assert config.diffusion.absorb_rate == 0.5
    assert with_sample_options(config, {"sampler": "dpm++", "faithful_v2": True, "steps": 10})
    with np.load(DATA / "dseq2_model.npz") as golden:
        np.testing.assert_array_equal(original.params["mean_embed"], golden["params/mean_embed"])


@pytest.mark.parametrize(
    ("given", "mean_embed", "vocab", "family"),
    [
        (None, False, "vocab.json", "diffusion-lm"),
        (None, False, "vocab.txt", "diffuseq"),
        (None, True, "vocab.txt", "diffuseq-v2"),
        ("diffuseq", False, "vocab.json", "diffuseq"),
    ],
)
def test_which_family(given, mean_embed, vocab, family):
    assert choose_family(given, mean_embed, vocab) == family


@pytest.mark.parametrize(("given", "mean_embed"), [("diffuseq-v2", False), ("diffuseq", True)])
def test_another_family(given, mean_embed):
    with pytest.raises(UserError, match=r"family is .* but the checkpoint has"):
        choose_family(given, mean_embed, "vocab.txt")


def test_a_converted_diffuseq_writes_targets(tmp_path, word_list, write_network):
    path = write_network("dseq_model")
    convert_original(path, tmp_path / "run", word_list, num_heads=4, length=24)
    generator = Generator.from_checkpoint(tmp_path / "run", steps=2)
    (generation,) = generator.generate(["w1 w2"])
    assert generation.source == "w1 w2"


def test_bert_vocabulary(tmp_path, write_network):
    pytest.importorskip("tokenizers")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*specials, *(f"w{i}" for i in range(93))]) + "\n")
    path = write_network("dseq_model")
    done = convert_original(path, tmp_path / "run", vocab, num_heads=4, length=24)
    assert (done.family, done.config.tokenizer.kind) == ("diffuseq", "wordpiece")
    assert Workdir(tmp_path / "run").read_tokenizer().pad_id == 0


def test_the_family_that_the_user_names(tmp_path, vocab_json, write_network):
    path = write_network()
    done = convert_original(
        path, tmp_path / "run", vocab_json, family="diffuseq", num_heads=4, length=24
    )
    assert (done.family, done.config.data.task) == ("diffuseq", "pair")


def test_half_precision_becomes_float32(tmp_path, write_network):
    with np.load(DATA / "dlm_model.npz") as golden:
        half = golden["params/lm_head.bias"].astype(np.float16)
    original = read_original(write_network(lm_head__bias=half), num_heads=4)
    assert original.params["head_bias"].dtype == np.float32
    np.testing.assert_array_equal(original.params["head_bias"], half.astype(np.float32))


# Bad input: a clear error, nothing written.

EMBEDDING = "word_embedding__weight"
BAD_ARRAYS = {
    "missing": ({"lm_head__bias": None}, "missing: lm_head.bias"),
    "unexpected": ({"extra__weight": np.zeros((2, 2), "f4")}, "unexpected: extra.weight"),
    "shape": (
        {"lm_head__bias": np.zeros(96, "f4")},
        r"lm_head.bias is \[96\] and must be \[97\]",
    ),
    "both at once": (
        {"lm_head__bias": None, "extra": np.zeros(2, "f4")},
        "missing: lm_head.bias; unexpected: extra",
    ),
    "not finite": (
        {"LayerNorm__bias": np.full(64, np.nan, "f4")},
        "finite numbers: LayerNorm.bias",
    ),
    "integers": ({"LayerNorm__bias": np.zeros(64, "i8")}, "finite numbers: LayerNorm.bias"),
    "learned variance": (
        {
            "output_down_proj__2__weight": np.zeros((32, 64), "f4"),
            "output_down_proj__2__bias": np.zeros(32, "f4"),
        },
        r"output_down_proj.2.weight is \[32, 64\] and must be \[16, 64\]",
    ),
    "no embedding": ({EMBEDDING: None}, "not a checkpoint of Diffusion-LM or DiffuSeq"),
    "flat embedding": ({EMBEDDING: np.zeros(97, "f4")}, "must be a matrix"),
    "conditional": ({"encoder_emb__weight": np.zeros((9, 9), "f4")}, "conditional mode"),
    "other network": ({"transformer__wte__weight": np.zeros((9, 9), "f4")}, "GPT-2"),
    "absorbing state": ({"mean_embed": np.zeros(3, "f4")}, r"mean_embed is \[3\]"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays(tmp_path, vocab_json, write_network, name):
    changes, message = BAD_ARRAYS[name]
    path = write_network(**changes)
    with pytest.raises(UserError, match=message) as caught:
        convert_original(path, tmp_path / "run", vocab_json, num_heads=4, length=24)
    assert path.name in str(caught.value)
    assert not (tmp_path / "run").exists()


BAD_OPTIONS = {
    "heads": ({"num_heads": 5}, "a divisor of hidden_dim"),
    "no heads": ({"num_heads": 0}, "at least 1"),
    "length": ({"length": 41}, "the checkpoint has 40 positions"),
    "published length": ({"length": None}, "length is 64, but the checkpoint has 40"),
    "short length": ({"length": 2}, "at least 5 tokens"),
    "family": ({"family": "diffuseq-v2"}, "has no array mean_embed"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(tmp_path, vocab_json, write_network, name):
    options, message = BAD_OPTIONS[name]
    options = {"num_heads": 4, "length": 24, **options}
    with pytest.raises(UserError, match=message):
        convert_original(write_network(), tmp_path / "run", vocab_json, **options)
    assert not (tmp_path / "run").exists()


def test_another_vocabulary(tmp_path, write_network):
    vocab = tmp_path / "vocab.json"
    vocab.write_text(json.dumps({"START": 0, "END": 1, "UNK": 2, "PAD": 3, "word": 4}))
    with pytest.raises(UserError, match="has 5 tokens, but the checkpoint has embeddings for 97"):
        convert_original(write_network(), tmp_path / "run", vocab, num_heads=4, length=24)
    assert not (tmp_path / "run").exists()


def test_a_directory_in_use(tmp_path, vocab_json, write_network):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        convert_original(write_network(), tmp_path / "run", vocab_json)


def test_width_that_no_published_head_divides(write_network):
    with np.load(DATA / "dlm_model.npz") as golden:
        arrays = original_arrays(dict(golden))
    arrays["position_embeddings.weight"] = np.zeros((40, 96), "f4")
    with pytest.raises(UserError, match="give the number of heads"):
        infer_spec(arrays)


# The command.


def test_command(tmp_path, vocab_json, capsys):
    run = str(tmp_path / "run")
    options = ["--vocab", str(vocab_json), "--workdir", run, "--num-heads", "4", "--length", "24"]
    assert main(["convert", str(EMA_FILE), *options]) == 0
    said = capsys.readouterr().out
    assert "family: diffusion-lm (inferred" in said
    assert "embedding: lm_head.weight; the two tables of the file differ" in said
    assert "a run of 3 updates" in said
    assert main(["sample", run, "-n", "2", "--steps", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(EMA_FILE), "--vocab", "v.json"], "needs --workdir"),
        ([str(EMA_FILE), "--workdir", "run"], "needs --vocab"),
        (
            [str(EMA_FILE), "--to", "m.safetensors"],
            "--to has no meaning for an original checkpoint",
        ),
        (["nowhere.pt", "--workdir", "run"], "nowhere.pt: no such file"),
        # 0 is an answer, if a wrong one.
        (
            [".", "--to", "m.safetensors", "--num-heads", "0"],
            "--num-heads has no meaning for a run",
        ),
        ([".", "--to", "m.safetensors", "--length", "0"], "--length has no meaning for a run"),
        (["hub:me/model", "--checkpoint-step", "0"], "--checkpoint-step has no meaning for a Hub"),
        (["hub:me/model", "--vocab", "v.json"], "--vocab has no meaning for a Hub repository"),
        ([".", "--to", "m.safetensors", "--public"], "--public has no meaning for a file"),
    ],
)
def test_command_refuses(capsys, arguments, message):
    assert main(["convert", *arguments]) == 2
    assert message in capsys.readouterr().err
