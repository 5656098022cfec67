"""TensorFlow Datasets without TensorFlow: prepared ``array_record`` datasets, read by index.

Reading never downloads: a dataset that is not there is reported with the call that prepares it.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.errors import UserError
from diffusion_jax.text.example import Example, linearise
from diffusion_jax.text.files import listing
from diffusion_jax.text.readers import example_of_row

_INFO_FILE = "dataset_info.json"
_VERSION = re.compile(r"\d+\.\d+\.\d+")
# Datasets whose columns have other names than the usual ones.
_COLUMNS_OF = {
    "e2e_cleaned": {"src": "input_text/table", "trg": "target_text"},
    "glue/qqp": {"src": "question1", "trg": "question2"},
    "glue/mrpc": {"src": "sentence1", "trg": "sentence2"},
    "paws_wiki": {"src": "sentence1", "trg": "sentence2"},
    "wiki_auto": {"src": "normal_sentence", "trg": "simple_sentence"},
    "squad_question_generation": {"src": "context_sentence", "trg": "question"},
    "gem/common_gen": {"src": "concepts", "trg": "target"},
}
# Families that register their datasets only when imported.
_FAMILIES = ("text", "translate", "structured", "summarization", "question_answering")


def tfds_reader(
    name: str,
    split: str,
    columns: Mapping[str, str] | None,
    where: Mapping[str, str],
    data_dir: str | Path | None,
) -> tuple[Callable[[], Iterator[Example]], Path]:
    """Open a prepared dataset.

    Args:
        name: ``dataset``, ``dataset/config``, with ``:version`` after it if it matters.
        split: One of the dataset's splits; slices such as ``train[:1000]`` are allowed.
        columns: See ``open_corpus``. A nested column is ``outer/inner``; a table of
            ``column_header`` and ``content`` reads as ``header : content | ...``, a list of texts
            as the texts joined by spaces.
        where: See ``open_corpus``.
        data_dir: Where datasets are kept; TFDS's own default if None.

    Returns:
        A function that starts a stream, and the file that describes the dataset.

    Raises:
        UserError: The dataset is not prepared, not as ``array_record``, or has no such split.
    """
    directory = _prepared_directory(name, data_dir)
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(directory))
    file_format = getattr(builder.info.file_format, "value", None)
    if file_format != "array_record":
        raise UserError(
            f"tfds:{name}: prepared as {file_format}, which cannot be read here without "
            f"TensorFlow; {_how_to_prepare(name, data_dir)}"
        )
    split_name = split.partition("[")[0]
    if split_name not in builder.info.splits:
        way_out = (
            "; name held-out texts with --data.validation, or do without (--data.validation-size 0)"
            if split == "validation"
            else ""
        )
        raise UserError(
            f"tfds:{name}: no split {split!r}; {listing(split_name, builder.info.splits)}{way_out}"
        )
    columns = columns or _usual_columns(name)

    def read() -> Iterator[Example]:
        source = builder.as_data_source(split)  # pyright: ignore[reportCallIssue]
        for number in range(len(source)):
            row = dict(_flatten(source[number]))
            place = f"tfds:{name} ({split}), example {number}"
            if example := example_of_row(row, columns, where, place, str(number)):
                yield example

    return read, directory / _INFO_FILE


def prepare_tfds(
    name: str, *, data_dir: str | Path | None = None, manual_dir: str | Path | None = None
) -> None:
    """Download a dataset and write it as ``array_record``; needs the network.

    Args:
        name: ``dataset`` or ``dataset/config``.
        data_dir: Where datasets are kept; TFDS's own default if None.
        manual_dir: Where files lie that were downloaded by hand, under their original names.

    Raises:
        UserError: TFDS knows no such dataset.
    """
    import importlib

    import tensorflow_datasets as tfds

    for family in _FAMILIES:
        importlib.import_module(f"tensorflow_datasets.{family}")
    try:
        builder = tfds.builder(
            name, data_dir=None if data_dir is None else str(data_dir), file_format="array_record"
        )
    except tfds.core.DatasetNotFoundError:
        base = name.partition("/")[0]
        raise UserError(
            f"tfds:{name}: TensorFlow Datasets knows no such dataset; "
            f"{listing(base, tfds.list_builders())[:200]} ..."
        ) from None
    manual = None if manual_dir is None else str(manual_dir)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))


def _prepared_directory(name: str, data_dir: str | Path | None) -> Path:
    """Return the directory of a prepared dataset, of its newest version if none is asked for."""
    base, _, wanted_version = name.partition(":")
    root = _data_dir(data_dir)
    parent = root / base
    versions = _versions(parent)
    if not versions:
        if configs := [p.name for p in _directories(parent) if _versions(p)]:
            raise UserError(
                f"tfds:{name}: name one of its configurations as tfds:{base}/NAME; "
                f"{listing('', configs)}"
            )
        raise UserError(f"tfds:{name}: not found in {root}; {_how_to_prepare(base, data_dir)}")
    if wanted_version and wanted_version not in versions:
        raise UserError(
            f"tfds:{name}: version {wanted_version} is not prepared; "
            f"{listing(wanted_version, versions)}"
        )
    newest = max(versions, key=lambda version: tuple(map(int, version.split("."))))
    return parent / (wanted_version or newest)


def _data_dir(data_dir: str | Path | None) -> Path:
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(data_dir or default).expanduser()


def _directories(parent: Path) -> list[Path]:
    return [p for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []


def _versions(parent: Path) -> list[str]:
    found = (p for p in _directories(parent) if _VERSION.fullmatch(p.name))
    return [p.name for p in found if (p / _INFO_FILE).exists()]


def _how_to_prepare(name: str, data_dir: str | Path | None) -> str:
    where = "" if data_dir is None else f", data_dir={str(data_dir)!r}"
    return (
        "prepare it once, with network: from diffusion_jax.text.tfds_reader import prepare_tfds; "
        f"prepare_tfds({name!r}{where})"
    )


def _usual_columns(name: str) -> Mapping[str, str] | None:
    base = name.partition(":")[0]
    return _COLUMNS_OF.get(base) or _COLUMNS_OF.get(base.partition("/")[0])


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (``outer/inner``, value) of a nested example, texts decoded."""
    for name, inner in value.items():
        path = f"{prefix}{name}"
        if not isinstance(inner, Mapping):
            yield path, _plain(inner)
        elif {"column_header", "content"} <= inner.keys():
            headers, contents = map(_texts, (inner["column_header"], inner["content"]))
            yield path, linearise(dict(zip(headers, contents)))
        else:
            yield from _flatten(inner, f"{path}/")


def _plain(value: Any) -> Any:
    """Return text for bytes, joined text for a list of bytes, a Python number for a scalar."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list) and all(isinstance(item, bytes) for item in value):
        return " ".join(_texts(value))
    return value


def _texts(values: Any) -> list[str]:
    return [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in values]
