"""Open any corpus by a short name: the built-in grammar, a file, a pair of files, or TFDS.

========================================  ======================================================
spec                                      what it is
========================================  ======================================================
``grammar:small``, ``grammar:full``       sentences of the built-in grammar
``grammar:full/data_to_text``             pairs of attributes and sentence
``grammar:full/paraphrase``               pairs of sentences that say the same
``texts.txt``                             one text a line
``e2e.txt``                               ``key : value | key : value||text`` lines (E2E)
``aligned.txt``                           two lines and a line of stars (OneStopEnglish)
``devset.csv``                            a header with ``mr,ref`` (E2E) or other columns
``train.jsonl``                           ``{"src": ..., "trg": ...}`` or ``{"text": ...}``
``source.txt,target.txt``                 two files of parallel lines
``tfds:e2e_cleaned``                      a prepared TensorFlow dataset
========================================  ======================================================
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from diffusion_jax.errors import UserError
from diffusion_jax.text.example import NEWLINE, Corpus, Example
from diffusion_jax.text.files import check_file, listing, read_lines
from diffusion_jax.text.readers import (
    read_csv,
    read_e2e,
    read_jsonl,
    read_parallel,
    read_plain,
    read_starred,
)

Format = Literal["auto", "lines", "e2e", "stars", "csv", "jsonl", "parallel"]
Task = Literal["auto", "text", "pair"]
_FORMAT_OF_SUFFIX = {".csv": "csv", ".jsonl": "jsonl", ".txt": "lines"}
_FORMATS_WITH_COLUMNS = ("csv", "jsonl", "tfds")
# What follows "grammar:SIZE/", and the grammar's method that draws it.
_GRAMMAR_DRAWS = {"": "corpus", "data_to_text": "data_to_text", "paraphrase": "paraphrases"}
_GRAMMAR_SPLITS = ("train", "validation", "test")
DEFAULT_GRAMMAR_SIZE = 20_000
_GRAMMAR_PART = 500

Reader = Callable[[], Iterator[Example]]


def open_corpus(
    spec: str,
    *,
    split: str = "train",
    format: Format = "auto",
    task: Task = "auto",
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    keep_newline: bool = False,
    size: int | None = None,
    seed: int | None = None,
    data_dir: str | Path | None = None,
    only_fitting: bool = False,
) -> Corpus:
    """Open a corpus and look at its first example.

    Args:
        spec: What to open; the module's table lists the forms.
        split: Which part of the grammar or the TensorFlow dataset; a file is one part as it is.
        format: How to read a file; ``"auto"`` goes by its name and first lines.
        task: ``"text"`` takes the targets of pairs as texts, ``"pair"`` insists on pairs;
            ``"auto"`` takes pairs as pairs, except E2E ``.txt`` files, which are read as texts.
        columns: ``{"text": column}`` or ``{"src": column, "trg": column}`` (csv, JSON lines,
            TFDS); nested TFDS columns are written ``outer/inner``.
        where: Columns and the values that they must have; other rows are left out (csv, JSON
            lines, TFDS).
        keep_newline: End every text (of pairs: target) with a newline as its last word, as
            Diffusion-LM does with E2E; not for the grammar, whose sentences have none.
        size: Take at most this many examples; how many to draw from the grammar (default
            20,000).
        seed: Of the grammar's draws (default 0).
        data_dir: Where TFDS keeps its datasets.
        only_fitting: Leave out the options that do not belong to this kind of corpus, as they are
            those of another one; without it they are refused.

    Raises:
        UserError: There is no such corpus, it is empty or its first example cannot be read, or an
            option does not belong to it.
    """
    _check_choice("format", format, get_args(Format))
    _check_choice("task", task, get_args(Task))
    if size is not None and size < 1:
        raise UserError(f"size is {size}, but must be 1 or more")
    if columns is not None and set(columns) not in ({"text"}, {"src", "trg"}):
        raise UserError(
            f"columns names {', '.join(columns) or 'nothing'}, but must name text, or src and trg"
        )
    kind, reader, files = _reader(spec, split, format, columns, where or {}, size, seed, data_dir)
    if not only_fitting:
        _refuse_options(spec, kind, columns, where, keep_newline, seed, data_dir)
    first = next(reader(), None)
    if first is None:
        reason = f" with {dict(where)}" if where else ""
        raise UserError(f"{spec}: no example{reason}; it must hold at least one")
    reader, paired = _for_task(spec, reader, first, task, kind)
    reader = partial(_with_words, reader, spec, "line" if files else "example")
    if keep_newline and kind != "grammar":
        reader = partial(_with_newlines, reader)
    identity = {
        "spec": spec,
        "split": split,
        "format": kind,
        "paired": paired,
        "columns": dict(columns or {}),
        "where": dict(where or {}),
        "keep_newline": keep_newline,
        "size": size,
        "seed": seed,
        "files": [_file_identity(path) for path in files],
        # The grammar has no file: a new version of it shows here.
        "first_examples": _digest(itertools.islice(reader(), 16)),
    }
    if kind == "grammar" and size is None:
        size = DEFAULT_GRAMMAR_SIZE
    return Corpus(reader, paired, f"{spec} ({split})", identity, size)


def _reader(
    spec: str,
    split: str,
    format: str,
    columns: Mapping[str, str] | None,
    where: Mapping[str, str],
    size: int | None,
    seed: int | None,
    data_dir: str | Path | None,
) -> tuple[str, Reader, list[Path]]:
    """Return the format found, a function that starts a stream, and the files behind it."""
    if spec.startswith("grammar:"):
        return "grammar", _grammar_reader(spec, split, size, seed), []
    if spec.startswith("tfds:"):
        from diffusion_jax.text.tfds_reader import tfds_reader

        name = spec.removeprefix("tfds:")
        reader, info_file = tfds_reader(name, split, columns, where, data_dir)
        return "tfds", reader, [info_file]
    if format == "parallel" or (format == "auto" and "," in spec and not Path(spec).exists()):
        src, comma, trg = spec.partition(",")
        if not comma:
            raise UserError(f"{spec}: parallel files are given as source.txt,target.txt")
        files = [check_file(src.strip()), check_file(trg.strip())]
        return "parallel", partial(read_parallel, *files), files
    path = check_file(spec)
    kind = _format_of_file(path) if format == "auto" else format
    readers: dict[str, Reader] = {
        "lines": partial(read_plain, path),
        "e2e": partial(read_e2e, path),
        "stars": partial(read_starred, path),
        "csv": partial(read_csv, path, columns, where),
        "jsonl": partial(read_jsonl, path, columns, where),
    }
    return kind, readers[kind], [path]


def _format_of_file(path: Path) -> str:
    """Tell the format by the file's name and, of ``.txt`` files, the first three lines."""
    if path.suffix not in _FORMAT_OF_SUFFIX:
        raise UserError(
            f"{path}: unknown kind of file {path.suffix!r}; known are "
            f"{', '.join(_FORMAT_OF_SUFFIX)}; or say the format"
        )
    if path.suffix != ".txt":
        return _FORMAT_OF_SUFFIX[path.suffix]
    lines = [line.strip() for _, line in itertools.islice(read_lines(path), 3)]
    if "||" in lines[0]:
        return "e2e"
    if len(lines) == 3 and lines[2] and set(lines[2]) == {"*"}:
        return "stars"
    return "lines"


def _grammar_reader(spec: str, split: str, size: int | None, seed: int | None) -> Reader:
    """Return a reader of the built-in grammar's sentences or pairs."""
    from diffusion_jax.text.grammar import load_grammar

    grammar_size, slash, pairs = spec.removeprefix("grammar:").partition("/")
    grammar = load_grammar(grammar_size)
    if pairs not in _GRAMMAR_DRAWS or (slash and not pairs):
        known = filter(None, _GRAMMAR_DRAWS)
        raise UserError(f"{spec}: no pairs {pairs!r}; {listing(pairs, known)}")
    if split not in _GRAMMAR_SPLITS:
        raise UserError(f"{spec}: no split {split!r}; {listing(split, _GRAMMAR_SPLITS)}")
    draw = getattr(grammar, _GRAMMAR_DRAWS[pairs])

    def read() -> Iterator[Example]:
        # Each part is a draw of its own, so that no more than one is in memory.
        for first in range(0, size or DEFAULT_GRAMMAR_SIZE, _GRAMMAR_PART):
            part_seed = (seed or 0) * 10**6 + first // _GRAMMAR_PART
            for number, item in enumerate(draw(part_seed, _GRAMMAR_PART, split), start=first):
                yield _grammar_example(item, str(number))

    return read


def _grammar_example(item: Any, example_id: str) -> Example:
    """Return a sentence, or a pair, of the grammar as an example."""
    if hasattr(item, "src"):
        fields = {"attributes": item.attributes}
        return Example(src=item.src, trg=item.trg, fields=fields, id=example_id)
    fields = {"attributes": item.attributes, "pos": item.pos, "tree": item.tree}
    return Example(text=item.text, fields=fields, id=example_id)


def _for_task(
    spec: str, reader: Reader, first: Example, task: Task, kind: str
) -> tuple[Reader, bool]:
    """Return a reader of texts or of pairs, as the task asks, and which of them it is."""
    has_pairs = first.trg is not None
    if task == "pair" and not has_pairs:
        raise UserError(
            f'{spec}: holds single texts, not pairs; set task to "text", or name the columns '
            "src and trg"
        )
    if not has_pairs:
        return reader, False
    if task == "text" or (task == "auto" and kind == "e2e"):
        return (lambda: (_target_as_text(example) for example in reader())), False
    return reader, True


def _with_words(reader: Reader, spec: str, unit: str) -> Iterator[Example]:
    """Yield the examples; refuse one that is empty, or a pair of which half is."""
    for example in reader():
        halves = {"source": example.src, "target": example.trg}
        parts = {"text": example.text} if example.trg is None else halves
        for name, text in parts.items():
            if not (text or "").strip():
                raise UserError(
                    f"{spec}, {unit} {example.id}: the {name} is empty; write it, or leave this "
                    f"{unit} out"
                )
        yield example


def _with_newlines(reader: Reader) -> Iterator[Example]:
    """Yield the examples with a newline as the last word of the text, or of a pair's target."""
    for example in reader():
        if example.trg is None:
            yield replace(example, text=_with_newline(example.text))
        else:
            yield replace(example, trg=_with_newline(example.trg))


def _with_newline(text: str) -> str:
    return f"{text.strip()} {NEWLINE}"


def _target_as_text(example: Example) -> Example:
    return replace(example, text=example.trg or "", src=None, trg=None)


def _refuse_options(
    spec: str,
    kind: str,
    columns: Mapping[str, str] | None,
    where: Mapping[str, str] | None,
    keep_newline: bool,
    seed: int | None,
    data_dir: str | Path | None,
) -> None:
    """Refuse options that this kind of corpus would ignore."""
    misplaced = {
        "columns": columns is not None and kind not in _FORMATS_WITH_COLUMNS,
        "where": where is not None and kind not in _FORMATS_WITH_COLUMNS,
        "keep_newline": keep_newline and kind == "grammar",
        "seed": seed is not None and kind != "grammar",
        "data_dir": data_dir is not None and kind != "tfds",
    }
    for name, is_misplaced in misplaced.items():
        if is_misplaced:
            turned_on = name == "keep_newline"
            way = "set it to False (--data.no-keep-newline)" if turned_on else "leave it out"
            raise UserError(f"{spec}: a corpus of kind {kind!r} has no option {name}; {way}")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name} is {value!r}; {listing(value, allowed)}")


def _file_identity(path: Path) -> list[str | int]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _digest(examples: Iterator[Example]) -> str:
    content = "\n".join(f"{e.text}\t{e.src}\t{e.trg}" for e in examples)
    return hashlib.sha256(content.encode()).hexdigest()
