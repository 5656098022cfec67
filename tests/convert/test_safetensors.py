"""Models to share: what is written is what is read, and nothing else is taken."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("safetensors")
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from diffusion_jax.cli import main
from diffusion_jax.config import DataConfig, ExperimentConfig, SampleConfig, TrainConfig
from diffusion_jax.convert import hub
from diffusion_jax.convert.safetensors import export_run, import_run, read_safetensors
from diffusion_jax.errors import UserError
from diffusion_jax.generate import Generator
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.models.transformer import transformer_denoiser
from diffusion_jax.text.tokenizers import WordTokenizer
from diffusion_jax.train.state import TrainState
from diffusion_jax.workdir import Workdir

STEP = 7


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with raw and averaged parameters, and paths that are nobody else's business."""
    folder = tmp_path_factory.mktemp("trained")
    tokenizer = WordTokenizer(["one", "two", "three"])
    config = ExperimentConfig(
        name="tiny",
        data=DataConfig(corpus="/home/me/texts.txt", length=8, cache="/home/me/cache"),
        model=DenoiserConfig(
            vocab_size=tokenizer.vocab_size,
            embed_dim=4,
            hidden_dim=8,
            num_layers=2,
            num_heads=2,
            mlp_dim=8,
            max_length=8,
            time_dim=4,
        ),
        train=TrainConfig(ema_rates=(0.9,)),
        sample=SampleConfig(steps=3),
    )
    params = random_params(config.model)
    averaged = random_params(config.model, seed=1)
    workdir = Workdir(folder / "run")
    workdir.create(config, tokenizer)
    state = TrainState(jnp.asarray(STEP), params, {"0.9": averaged}, (), ())
    with workdir.checkpoints() as store:
        store.save(STEP, state, {"tokenizer": tokenizer.fingerprint()})
    return workdir.path, params, averaged


def random_params(spec, seed=0):
    shapes = jax.eval_shape(transformer_denoiser(spec).init, jax.random.key(0))
    draw = np.random.default_rng(seed).standard_normal
    return jax.tree.map(lambda leaf: jnp.asarray(draw(leaf.shape), jnp.float32), shapes)


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.parametrize("weights", ["ema", "ema 0.9", "params"])
def test_there_and_back(tmp_path, trained, weights):
    run, params, averaged = trained
    file = export_run(run, tmp_path / "shared" / "model.safetensors", weights=weights)
    shared = import_run(file, tmp_path / "copy")
    wanted = params if weights == "params" else averaged
    assert_same(shared.params, wanted)
    assert shared.step == STEP
    copy = Workdir(tmp_path / "copy")
    assert copy.checkpoints().steps() == [STEP]
    assert_same(copy.read_params(copy.read_config()), wanted)


def test_the_copy_writes_the_same_texts(tmp_path, trained):
    file = export_run(trained[0], tmp_path / "shared" / "model.safetensors")
    import_run(file, tmp_path / "copy")
    texts = [Generator.from_checkpoint(p).sample(3) for p in (trained[0], tmp_path / "copy")]
    assert texts[0] == texts[1]


def test_what_is_in_the_files(tmp_path, trained):
    file = export_run(trained[0], tmp_path / "shared" / "model.safetensors")
    assert {p.name for p in file.parent.iterdir()} == {
        "model.safetensors",
        "README.md",
        "tokenizer",
    }
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    config = json.loads(metadata["config"])
    assert metadata["step"] == str(STEP)
    assert config["train"]["ema_rates"] == []
    assert (config["data"]["corpus"], config["data"]["cache"]) == ("texts.txt", "")
    kernel = load_file(file)["network.layers.attention.qkv.kernel"]
    assert kernel.flags.c_contiguous
    card = (file.parent / "README.md").read_text()
    assert "| updates | 7 |" in card
    assert "| weights | ema 0.9 |" in card
    assert "/home" not in card


def test_nothing_is_overwritten(tmp_path, trained):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"README.md exists and is not overwritten"):
        export_run(trained[0], tmp_path / "model.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        export_run(trained[0], tmp_path / "model.bin")


def test_no_such_weights(tmp_path, trained):
    with pytest.raises(UserError, match=r"ema 0\.5"):
        export_run(trained[0], tmp_path / "shared" / "model.safetensors", weights="ema 0.5")
    assert not (tmp_path / "shared").exists()


# Bad files: a clear error, nothing written.


@pytest.fixture
def change(tmp_path, trained):
    """Return a function that exports the run and writes the file again with changes."""

    def changed(arrays=None, metadata=None, dtype=None) -> Path:
        file = export_run(trained[0], tmp_path / "shared" / "model.safetensors")
        with safe_open(file, framework="numpy") as opened:
            all_metadata = opened.metadata() | (metadata or {})
        all_arrays = load_file(file) | (arrays or {})
        kept = {k: v.astype(dtype or v.dtype) for k, v in all_arrays.items() if v is not None}
        save_file(kept, file, {k: v for k, v in all_metadata.items() if v is not None})
        return file

    return changed


NAN = np.array([0, 0, np.nan, 0, 0, 0, 0], "f4")
BAD = {
    "missing": ({"arrays": {"head_bias": None}}, r"head_bias is absent in the file and F32\[7\]"),
    "unexpected": ({"arrays": {"x": np.zeros(2, "f4")}}, "absent in the network"),
    "shape": ({"arrays": {"head_bias": np.zeros(6, "f4")}}, r"head_bias is F32\[6\]"),
    "half precision": ({"dtype": np.float16}, r"F16\[7, 4\] in the file and F32"),
    "another program": ({"metadata": {"format": "pt"}}, "not that of a model of this program"),
    "no configuration": ({"metadata": {"config": None}}, "not that of a model of this program"),
    "bad configuration": ({"metadata": {"config": "{"}}, "not valid JSON"),
    "bad step": ({"metadata": {"step": "-1"}}, "the step '-1'"),
    "step past the counter": ({"metadata": {"step": "2147483648"}}, "a whole number up to 2,147"),
    "step of many digits": ({"metadata": {"step": "1" * 5000}}, "the step '1{20}', not a whole"),
    "deep configuration": ({"metadata": {"config": "[" * 100_000}}, "nested too deeply"),
    "long number": ({"metadata": {"config": "1" * 5000}}, "not valid JSON"),
    "not a number": ({"arrays": {"head_bias": NAN}}, "1 of the 7 numbers of head_bias are"),
    "other vocabulary": ({"metadata": {"tokenizer": "0"}}, "vocabulary does not fit"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, change, name):
    options, message = BAD[name]
    file = change(**options)
    with pytest.raises(UserError, match=message):
        import_run(file, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_damaged_files(tmp_path, trained):
    file = export_run(trained[0], tmp_path / "shared" / "model.safetensors")
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:4], b"PK" + whole, b"text"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="damaged or not a safetensors file"):
            read_safetensors(file)


def test_no_tokenizer(tmp_path, trained):
    file = export_run(trained[0], tmp_path / "shared" / "model.safetensors")
    shutil.rmtree(file.parent / "tokenizer")
    with pytest.raises(UserError, match="no such file"):
        import_run(file, tmp_path / "copy")


def test_command(tmp_path, trained, capsys):
    file, copy = str(tmp_path / "shared" / "model.safetensors"), str(tmp_path / "copy")
    assert main(["convert", str(trained[0]), "--to", file]) == 0
    assert main(["convert", file, "--workdir", copy]) == 0
    assert "a run of 7 updates" in capsys.readouterr().out
    assert main(["convert", file, "--workdir", copy]) == 2
    assert "already holds a run" in capsys.readouterr().err


# The Hub, with a stand-in for its client.


class FakeHub:
    def __init__(self, folder):
        self.folder, self.calls = folder, []

    def create_repo(self, repo_id, *, private, exist_ok):
        self.calls.append(("create", repo_id, private))

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        self.calls.append(("upload", repo_id))
        shutil.copytree(folder_path, self.folder / repo_id)

    def snapshot_download(self, repo_id, *, revision, local_dir, allow_patterns):
        if not (self.folder / repo_id).is_dir():
            raise OSError("404: no such repository")
        self.calls.append(("download", repo_id, revision))
        shutil.copytree(self.folder / repo_id, local_dir, dirs_exist_ok=True)
        return local_dir


def test_to_the_hub_and_back(tmp_path, trained):
    client = FakeHub(tmp_path)
    hub.push_run(trained[0], "me/tiny", client=client)
    shared = hub.pull_run("me/tiny", tmp_path / "copy", revision="v1", client=client)
    assert client.calls == [
        ("create", "me/tiny", True),
        ("upload", "me/tiny"),
        ("download", "me/tiny", "v1"),
    ]
    assert_same(shared.params, trained[2])
    assert Workdir(tmp_path / "copy").is_run()


def test_the_hub_refuses(tmp_path):
    with pytest.raises(UserError, match="downloaded from the Hub repository 'me/none': 404"):
        hub.pull_run("me/none", tmp_path / "copy", client=FakeHub(tmp_path))
    (tmp_path / "me" / "empty").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        hub.pull_run("me/empty", tmp_path / "copy", client=FakeHub(tmp_path))


def test_the_real_client_takes_these_calls():
    """The stand-in is called as the library's own client would be."""
    import inspect

    api = pytest.importorskip("huggingface_hub").HfApi
    for name in ("create_repo", "upload_folder", "snapshot_download"):
        wanted = set(inspect.signature(getattr(FakeHub, name)).parameters)
        assert wanted <= set(inspect.signature(getattr(api, name)).parameters), name
