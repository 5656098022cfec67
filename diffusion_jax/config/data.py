"""What is read, and how text becomes token ids."""

from dataclasses import dataclass
from typing import Literal

from diffusion_jax.config.checks import require
from diffusion_jax.fields import check_fields


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and how it becomes rows of token ids.

    Attributes:
        corpus: training corpus: "grammar:small", "grammar:full", "grammar:small/data_to_text",
            "grammar:full/paraphrase", a path (.txt, .csv, .jsonl, or "src.txt,trg.txt"), or
            "tfds:NAME".
        validation: validation corpus; empty means the validation split of the same corpus, where it
            has one (the grammar, TFDS); otherwise nothing is validated.
        task: "text" learns sentences; "pair" learns target given source by partial noising.
        format: how to read a file: "auto" goes by its name and first lines; else "lines", "e2e",
            "stars", "csv", "jsonl" or "parallel".
        columns: column names to read: one for text, two (source, target) for pairs; empty means the
            format's own.
        where: keep only rows with these values, each "column=value" (csv, JSON lines, TFDS).
        size: read at most this many examples; for the grammar, draw this many; 0 means all (the
            grammar's default is 20,000).
        validation_size: likewise for validation.
        data_dir: where TFDS keeps its datasets; empty means TFDS's own default.
        keep_newline: end each text with a newline token, as Diffusion-LM does with E2E.
        length: row length L in tokens, padding included.
        length_bucket: pairs only: train on batches of rows of about one length, cut to a multiple
            of this many tokens; 0 keeps all rows at full length. The loss is then a mean over the
            cut rows, and `generate` cuts rows likewise where it knows how long a target is
            (model.length_head, --max-target).
        packing: "pad" gives each sentence its row; "block" cuts the concatenated text into rows.
        on_long: what to do with an example longer than the row: "error", "truncate" or "drop".
        cache: directory where tokenised corpora are kept, memory-mapped, for corpora larger than
            memory; empty means in memory.
    """

    corpus: str = "grammar:small"
    validation: str = ""
    task: Literal["text", "pair"] = "text"
    format: Literal["auto", "lines", "e2e", "stars", "csv", "jsonl", "parallel"] = "auto"
    columns: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    size: int = 0
    validation_size: int = 1000
    data_dir: str = ""
    keep_newline: bool = False
    length: int = 64
    length_bucket: int = 0
    packing: Literal["pad", "block"] = "pad"
    on_long: Literal["error", "truncate", "drop"] = "error"
    cache: str = ""

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        check_fields(self, "data")
        require(bool(self.corpus), "data.corpus", self.corpus, "a corpus name or a path")
        require(self.length >= 5, "data.length", self.length, "at least 5 tokens")
        require(
            self.length_bucket == 0
            or (self.task == "pair" and 1 <= self.length_bucket < self.length),
            "data.length_bucket",
            self.length_bucket,
            "0, or with task 'pair' at least 1 and less than data.length (single texts are sampled "
            "at full length, so they are trained at full length)",
        )
        require(self.size >= 0, "data.size", self.size, "0 (all) or more")
        require(
            self.validation_size >= 0, "data.validation_size", self.validation_size, "0 or more"
        )
        require(
            not (self.task == "pair" and self.packing == "block"),
            "data.packing",
            self.packing,
            '"pad": a pair fills its own row',
        )
        wanted = 2 if self.task == "pair" else 1
        require(
            len(self.columns) in (0, wanted),
            "data.columns",
            self.columns,
            f"{wanted} column name(s) for task {self.task!r}, or none",
        )
        for condition in self.where:
            require("=" in condition, "data.where", condition, '"column=value"')


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How text becomes token ids.

    Attributes:
        kind: "word" splits on spaces, "sentencepiece" is trained on the corpus, "wordpiece" is
            BERT's and needs its vocabulary file.
        min_count: "word": words seen this often or less become unknown (default 10, as
            Diffusion-LM; 0 keeps every word).
        vocab_size: "sentencepiece": how many pieces to learn.
        vocab_file: a finished vocabulary: BERT's vocab.txt ("wordpiece" needs it), a word list or a
            SentencePiece model.
        lowercase: "wordpiece": whether the vocabulary is uncased (default true). "sentencepiece":
            whether to learn one that is (default false); texts in capitals are then understood too.
    """

    kind: Literal["word", "sentencepiece", "wordpiece"] = "word"
    min_count: int | None = None
    vocab_size: int | None = None
    vocab_file: str | None = None
    lowercase: bool | None = None

    def __post_init__(self) -> None:
        """Check ranges, and refuse options that the chosen kind would ignore."""
        check_fields(self, "tokenizer")
        owners = {
            "min_count": ("word",),
            "vocab_size": ("sentencepiece",),
            "lowercase": ("wordpiece", "sentencepiece"),
        }
        for name, kinds in owners.items():
            value, kind = getattr(self, name), " or ".join(map(repr, kinds))
            require(
                value is None or self.kind in kinds,
                f"tokenizer.{name}",
                value,
                f"nothing with kind {self.kind!r}: it belongs to kind {kind}",
            )
        require(
            not (self.kind == "sentencepiece" and self.vocab_file and self.lowercase is not None),
            "tokenizer.lowercase",
            self.lowercase,
            f"nothing with tokenizer.vocab_file = {self.vocab_file!r}, a trained SentencePiece "
            "model, which folds case or does not; or leave tokenizer.vocab_file out, to train one",
        )
        require(
            self.kind != "wordpiece" or self.vocab_file is not None,
            "tokenizer.vocab_file",
            self.vocab_file,
            "the path of BERT's vocab.txt when tokenizer.kind is wordpiece",
        )
        require(
            self.min_count is None or self.min_count >= 0,
            "tokenizer.min_count",
            self.min_count,
            "0 or more",
        )
        require(
            self.vocab_size is None or self.vocab_size >= 8,
            "tokenizer.vocab_size",
            self.vocab_size,
            "at least 8",
        )
