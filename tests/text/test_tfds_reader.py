"""TensorFlow Datasets by name, without TensorFlow and without network."""

import json
import sys

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.text.corpora import open_corpus

COLUMNS = {"src": "input_text/table", "trg": "target_text"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    from diffusion_jax.text.tfds_reader import prepare_tfds
    from tests.text.tiny_tfds import tiny_pairs  # noqa: F401

    prepare_tfds("tiny_pairs", data_dir=directory)
    return directory


def test_pairs_of_nested_columns(data_dir):
    corpus = open_corpus("tfds:tiny_pairs", columns=COLUMNS, data_dir=data_dir)
    assert corpus.paired
    found = {(e.src, e.trg) for e in corpus}
    assert found == {
        (f"name : Café {i} | food : Thai", f"Café {i} serves Thai food .") for i in range(10)
    }
    assert "tensorflow" not in sys.modules


def test_splits_slices_filters_and_lists(data_dir):
    def count(**options):
        corpus = open_corpus("tfds:tiny_pairs", data_dir=data_dir, columns=COLUMNS, **options)
        return len(list(corpus))

    assert count(split="test") == 3
    assert count(split="train[:4]") == 4
    assert count(where={"label": "1"}) == 5
    words = open_corpus("tfds:tiny_pairs:1.0.0", columns={"text": "words"}, data_dir=data_dir)
    assert next(iter(words)).text == "thai food"


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("tfds:tiny_pair", {}, "not found in .*prepare_tfds"),
        ("tfds:tiny_pairs:2.0.0", {}, r"version 2\.0\.0 is not prepared; .* there is: 1\.0\.0"),
        (
            "tfds:tiny_pairs",
            {"split": "validation"},
            "no split 'validation'; there is: test, train",
        ),
        ("tfds:tiny_pairs", {"columns": None}, "say which columns"),
        ("tfds:tiny_pairs", {"columns": {"text": "target"}}, "did you mean 'target_text'"),
        ("tfds:tiny_pairs", {"columns": {"text": "label"}}, "holds int"),
    ],
)
def test_what_is_not_there_is_named(data_dir, spec, options, message):
    with pytest.raises(UserError, match=message):
        open_corpus(spec, **{"columns": COLUMNS, "data_dir": data_dir, **options})


def test_other_file_formats_are_refused(data_dir, tmp_path):
    copy = tmp_path / "tiny_pairs" / "1.0.0"
    copy.mkdir(parents=True)
    for file in (data_dir / "tiny_pairs" / "1.0.0").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    info = json.loads((copy / "dataset_info.json").read_text())
    (copy / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="prepared as tfrecord"):
        open_corpus("tfds:tiny_pairs", columns=COLUMNS, data_dir=tmp_path)


def test_a_configuration_must_be_named(data_dir, tmp_path):
    version = tmp_path / "glue" / "qqp" / "2.0.0"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match=r"name one of its configurations as tfds:glue/NAME.*qqp"):
        open_corpus("tfds:glue", data_dir=tmp_path)
