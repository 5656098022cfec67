"""Read files of candidates and references, and bring them together by id, not by line number.

A line is one JSON object. Candidates: {"id", "candidates"} and, where known, "source" and "text"
(the candidate that was chosen), as ``diffusion-jax generate`` writes them; or {"recover",
"reference", "source"} as DiffuSeq's sampler does, one candidate a line. References: {"trg"}, a text
or a list of them, and, where known, "id" and "src". A line without an id has its number as id,
counted from 0, blank lines left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_jax.errors import UserError
from diffusion_jax.text.files import json_object, listing, read_lines
from diffusion_jax.text.tokenizers import Tokenizer, load_tokenizer
from diffusion_jax.text.tokenizers.base import DESCRIPTION_FILE

_IDS_SHOWN = 3


class Entry(NamedTuple):
    """What one line says; what it does not say is None or empty."""

    source: str | None
    candidates: tuple[str, ...]
    reference: str | tuple[str, ...] | None
    chosen: str | None = None


MakeEntry = Callable[[Mapping[str, Any], str], Entry]


class AlignedTexts(NamedTuple):
    """Texts to evaluate, one row a source.

    Attributes:
        ids: [S].
        candidates: [S][C], the candidates of the first file first.
        references: [S], each a text or several.
        sources: [S], or None where no file has them.
        chosen: [S], the candidates that were chosen; None unless there is one file, whose every
            line says it.
    """

    ids: list[str]
    candidates: list[list[str]]
    references: list[str | tuple[str, ...]]
    sources: list[str] | None
    chosen: list[str] | None = None


def read_aligned(
    candidate_paths: Sequence[str | Path], reference_path: str | Path | None
) -> AlignedTexts:
    """Read candidates of the same sources from one or more files, and their references.

    Args:
        candidate_paths: one or more files of candidates.
        reference_path: the references; None where the files of candidates carry them.

    Raises:
        UserError: a file is missing, empty or malformed; an id is missing, unknown or there twice;
            files disagree on a source or a reference; references are given twice or not at all.
    """
    if len({Path(path).resolve() for path in candidate_paths}) < len(candidate_paths):
        raise UserError("the same file of candidates is given twice; give each once")
    files = {str(path): _read(path, _candidate_entry) for path in candidate_paths}
    truth_path, truth = _references(files, reference_path)
    for path, entries in files.items():
        _check_size(path, entries)
        _check_same_ids(path, entries, truth_path, truth)
    everything = {**files, truth_path: truth}
    sources: list[str | None] = [_agreed(everything, id_, "source") for id_ in truth]
    references = [_agreed(everything, id_, "reference") for id_ in truth]
    chosen = [next(iter(files.values()))[id_].chosen for id_ in truth] if len(files) == 1 else []
    return AlignedTexts(
        ids=list(truth),
        candidates=[
            [text for entries in files.values() for text in entries[id_].candidates]
            for id_ in truth
        ],
        references=[reference for reference in references if reference is not None],
        sources=_all_or_none(sources),
        chosen=_all_or_none(chosen) or None,
    )


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Return the tokenizer of a run directory, or of its ``tokenizer/``; raises UserError."""
    for directory in (Path(path) / "tokenizer", Path(path)):
        if (directory / DESCRIPTION_FILE).is_file():
            return load_tokenizer(directory)
    raise UserError(
        f"{path} holds no tokenizer; give the run directory of the model that wrote the candidates"
    )


def _all_or_none(texts: Sequence[str | None]) -> list[str] | None:
    known = [text for text in texts if text is not None]
    return known if len(known) == len(texts) else None


def _references(
    files: Mapping[str, Mapping[str, Entry]], reference_path: str | Path | None
) -> tuple[str, Mapping[str, Entry]]:
    """Return the file that says which ids there are and what their references are."""
    own = [path for path, entries in files.items() if _carries_references(entries)]
    if reference_path is None:
        if not own:
            raise UserError(
                f"{next(iter(files))} has no references; give a file of references (--references)"
            )
        return own[0], files[own[0]]
    if own:
        raise UserError(
            f"{own[0]} carries its own references, so a file of references cannot be given as "
            "well; leave --references out"
        )
    return str(reference_path), _read(reference_path, _reference_entry)


def _carries_references(entries: Mapping[str, Entry]) -> bool:
    return all(entry.reference is not None for entry in entries.values())


def _read(path: str | Path, make_entry: MakeEntry) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for place, row in _rows(path):
        id_ = row.get("id", len(entries))
        if isinstance(id_, bool) or not isinstance(id_, (int, str)):
            raise UserError(f"{place}: the id {id_!r} is neither a text nor a whole number")
        if str(id_) in entries:
            raise UserError(f"{place}: the id {id_!r} is there twice; each source has one line")
        entries[str(id_)] = make_entry(row, place)
    if not entries:
        raise UserError(f"{path}: the file has blank lines only; it must hold one object a line")
    return entries


def _rows(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in read_lines(path, pipe=True):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        yield place, json_object(line, place)


def _candidate_entry(row: Mapping[str, Any], place: str) -> Entry:
    if "recover" in row:
        return Entry(
            source=_text(row, "source", place),
            candidates=(_text(row, "recover", place),),
            reference=_text(row, "reference", place),
        )
    candidates = _value(row, "candidates", place)
    texts = isinstance(candidates, list) and all(isinstance(text, str) for text in candidates)
    if not texts or not candidates:
        raise UserError(f'{place}: "candidates" must be a list of one or more texts')
    source = _text(row, "source", place) if "source" in row else None
    chosen = _text(row, "text", place) if "text" in row else None
    if chosen is not None and chosen not in candidates:
        raise UserError(f'{place}: "text" is none of the candidates; it must be the chosen one')
    return Entry(source, tuple(candidates), None, chosen)


def _reference_entry(row: Mapping[str, Any], place: str) -> Entry:
    source = _text(row, "src", place) if "src" in row else None
    several = row.get("trg")
    if not isinstance(several, list):
        return Entry(source, (), _text(row, "trg", place))
    if not several or not all(isinstance(text, str) for text in several):
        raise UserError(f'{place}: "trg" must be a text, or a list of one or more')
    return Entry(source, (), tuple(several))


def _text(row: Mapping[str, Any], name: str, place: str) -> str:
    value = _value(row, name, place)
    if not isinstance(value, str):
        raise UserError(f'{place}: "{name}" holds {type(value).__name__}, but must hold text')
    return value


def _value(row: Mapping[str, Any], name: str, place: str) -> Any:
    if name not in row:
        raise UserError(f'{place}: there is no "{name}"; {listing(name, row)}')
    return row[name]


def _check_size(path: str, entries: Mapping[str, Entry]) -> None:
    """Raise UserError unless all sources of a file have the same number of candidates."""
    first_id, first = next(iter(entries.items()))
    for id_, entry in entries.items():
        if len(entry.candidates) != len(first.candidates):
            raise UserError(
                f"{path}: id {id_} has {len(entry.candidates)} candidates, but id {first_id} has "
                f"{len(first.candidates)}; every source needs the same number"
            )


def _check_same_ids(
    path: str, entries: Mapping[str, Entry], truth_path: str, truth: Mapping[str, Entry]
) -> None:
    missing = [id_ for id_ in truth if id_ not in entries]
    unknown = [id_ for id_ in entries if id_ not in truth]
    if missing or unknown:
        found = [
            f"{len(ids)} {what} (id {_some(ids)})"
            for ids, what in ((missing, "have no candidates"), (unknown, "are not in it"))
            if ids
        ]
        raise UserError(
            f"{path} has candidates for {len(entries)} sources, {truth_path} has {len(truth)}: "
            f"{'; '.join(found)}; give files of the same sources, complete an interrupted run"
        )


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_IDS_SHOWN]) + (" ..." if len(ids) > _IDS_SHOWN else "")


def _agreed(files: Mapping[str, Mapping[str, Entry]], id_: str, field: str) -> Any:
    """Return what the files say about a source or reference; they must not say different things."""
    first_path, agreed = "", None
    for path, entries in files.items():
        said = getattr(entries[id_], field)
        if agreed is None:
            first_path, agreed = path, said
        elif said is not None and _words(said) != _words(agreed):
            raise UserError(
                f"id {id_}: the {field} is {agreed!r} in {first_path}, but {said!r} in {path}; "
                "the files are not of the same sources"
            )
    return agreed


def _words(said: str | tuple[str, ...]) -> list[list[str]]:
    return [text.split() for text in ([said] if isinstance(said, str) else said)]
