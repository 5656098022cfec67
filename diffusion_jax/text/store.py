"""A tokenised corpus as one table of fixed-length rows, in memory or memory-mapped.

One streaming pass writes the rows; afterwards any row is read by its index, so a corpus larger
than memory trains like a small one.
"""

import hashlib
import io
import itertools
import json
import os
import shutil
import uuid
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.text.example import Corpus
from diffusion_jax.text.rows import CorpusPacker, Packing, PackingReport
from diffusion_jax.text.tokenizers.base import Tokenizer

# Raised whenever the same corpus, tokenizer and packing would give other bytes.
FORMAT_VERSION = 2
_IDS_FILE = "input_ids.bin"
_SOURCE_LENGTHS_FILE = "source_lengths.bin"
_META_FILE = "store.json"
_ROWS_PER_WRITE = 4096


class TokenStore:
    """A table of packed rows.

    Attributes:
        input_ids: [N, L] uint16 or int32.
        source_lengths: [N] int32: positions at the start of each row that are given, not
            generated (0 for single texts).
        report: What happened to the corpus.
        digest: Identifies corpus, tokenizer and packing on this machine; equal digests mean equal
            tables.
        checksum: CRC-32 of the rows: the same wherever the same rows are.
    """

    def __init__(
        self,
        input_ids: np.ndarray,
        source_lengths: np.ndarray,
        report: PackingReport,
        digest: str,
        checksum: int = 0,
    ):
        self.input_ids = input_ids
        self.source_lengths = source_lengths
        self.report = report
        self.digest = digest
        self.checksum = checksum

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def length(self) -> int:
        """Row length L."""
        return self.input_ids.shape[1]

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return ``input_ids`` [B, L] int32 and ``noise_mask`` [B, L] bool of the given rows."""
        given = self.source_lengths[indices]
        return {
            "input_ids": self.input_ids[indices].astype(np.int32),
            "noise_mask": np.arange(self.length) >= given[:, None],
        }


def build_store(
    corpus: Corpus,
    tokenizer: Tokenizer,
    packing: Packing,
    *,
    cache_dir: str | Path | None = None,
) -> TokenStore:
    """Tokenise and pack a corpus in one streaming pass.

    Args:
        corpus: The examples; pairs are packed as DiffuSeq does, texts as Diffusion-LM does.
        tokenizer: Text to ids.
        packing: How examples become rows.
        cache_dir: Where the table is kept as memory-mapped files and found again by the next
            run; without it the table is held in memory.

    Raises:
        UserError: An example cannot be read or does not fit, or no row results.
    """
    digest = store_digest(corpus, tokenizer, packing)
    if cache_dir is None:
        ids_file, lengths_file = io.BytesIO(), io.BytesIO()
        report, checksum = _write_table(corpus, tokenizer, packing, ids_file, lengths_file)
        ids = np.frombuffer(ids_file.getbuffer(), _ids_dtype(tokenizer))
        lengths = np.frombuffer(lengths_file.getbuffer(), np.int32)
        return TokenStore(ids.reshape(-1, packing.length), lengths, report, digest, checksum)
    directory = Path(cache_dir) / digest
    if not _is_complete(directory):
        _write_directory(directory, corpus, tokenizer, packing, digest)
    return open_store(directory)


def store_digest(corpus: Corpus, tokenizer: Tokenizer, packing: Packing) -> str:
    """Return the name under which the table of this corpus, tokenizer and packing is kept."""
    record = {
        "format": FORMAT_VERSION,
        "corpus": corpus.identity,
        "tokenizer": tokenizer.fingerprint(),
        "packing": asdict(packing),
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:32]


def open_store(directory: str | Path) -> TokenStore:
    """Open a finished table, memory-mapped; reads it once, to compare its checksum.

    Raises:
        UserError: The directory holds no complete table, or a damaged one.
    """
    directory = Path(directory)
    if not _is_complete(directory):
        raise UserError(f"{directory}: no complete token table here; build it again")
    meta = _read_meta(directory)
    shape = (meta["report"]["rows"], meta["length"])
    ids = np.memmap(directory / _IDS_FILE, meta["dtype"], "r", shape=shape)
    lengths = np.memmap(directory / _SOURCE_LENGTHS_FILE, np.int32, "r", shape=shape[:1])
    checksum = 0
    for start in range(0, shape[0], _ROWS_PER_WRITE):
        chunk = slice(start, start + _ROWS_PER_WRITE)
        checksum = _add_rows(checksum, ids[chunk].tobytes(), lengths[chunk].tobytes())
    if checksum != meta["checksum"]:
        raise UserError(
            f"{directory}: the token table is damaged: its rows are not those that were written; "
            "delete the directory, the next run builds it again"
        )
    return TokenStore(ids, lengths, PackingReport(**meta["report"]), meta["digest"], checksum)


def _add_rows(checksum: int, ids: bytes, lengths: bytes) -> int:
    return zlib.crc32(lengths, zlib.crc32(ids, checksum))


def _ids_dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32)


def _write_directory(
    directory: Path, corpus: Corpus, tokenizer: Tokenizer, packing: Packing, digest: str
) -> None:
    """Write the table beside its final place and rename it when it is complete."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.parent / f".{digest}.{uuid.uuid4().hex}.tmp"
    unfinished.mkdir()
    try:
        with (
            (unfinished / _IDS_FILE).open("wb") as ids_file,
            (unfinished / _SOURCE_LENGTHS_FILE).open("wb") as lengths_file,
        ):
            report, checksum = _write_table(corpus, tokenizer, packing, ids_file, lengths_file)
        meta = {
            "checksum": checksum,
            "report": asdict(report),
            "length": packing.length,
            "dtype": _ids_dtype(tokenizer).name,
            "digest": digest,
        }
        (unfinished / _META_FILE).write_text(json.dumps(meta), encoding="utf-8")
        if directory.exists() and not _is_complete(directory):
            shutil.rmtree(directory)
        try:
            os.rename(unfinished, directory)
        except OSError:
            # Another process finished the same table first: its bytes are the same.
            if not _is_complete(directory):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _is_complete(directory: Path) -> bool:
    """Return whether the files are there in the sizes that their description says."""
    try:
        meta = _read_meta(directory)
        rows, length = meta["report"]["rows"], meta["length"]
        int(meta["checksum"])
        ids_size = (directory / _IDS_FILE).stat().st_size
        lengths_size = (directory / _SOURCE_LENGTHS_FILE).stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return False
    row_size = length * np.dtype(meta["dtype"]).itemsize
    return ids_size == rows * row_size and lengths_size == rows * np.dtype(np.int32).itemsize


def _read_meta(directory: Path) -> dict:
    return json.loads((directory / _META_FILE).read_text(encoding="utf-8"))


def _write_table(
    corpus: Corpus,
    tokenizer: Tokenizer,
    packing: Packing,
    ids_file: BinaryIO,
    lengths_file: BinaryIO,
) -> tuple[PackingReport, int]:
    """Write all rows; return what happened to the examples, and the checksum of the rows."""
    checksum = 0
    packer = CorpusPacker(corpus, tokenizer, packing)
    dtype = _ids_dtype(tokenizer)
    rows = iter(packer)
    while chunk := list(itertools.islice(rows, _ROWS_PER_WRITE)):
        ids = np.stack([row.input_ids for row in chunk])
        source_lengths = [packing.length - int(row.noise_mask.sum()) for row in chunk]
        ids_bytes = ids.astype(dtype).tobytes()
        lengths_bytes = np.asarray(source_lengths, np.int32).tobytes()
        ids_file.write(ids_bytes)
        lengths_file.write(lengths_bytes)
        checksum = _add_rows(checksum, ids_bytes, lengths_bytes)
    if packer.report.rows == 0:
        raise UserError(
            f"{corpus.describe}: no row of length {packing.length} results ({packer.report})"
        )
    return packer.report, checksum
