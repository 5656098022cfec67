"""``diffusion-jax evaluate``: how good texts are, as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diffusion_jax.cli.options import check_output, output_stream, parse
from diffusion_jax.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from diffusion_jax.evaluate.report import Report, Scores


@dataclass(frozen=True)
class EvaluateCommand:
    """Score generated texts against references.

    Candidates are lines {"id", "source", "candidates"} (what generate writes; with --mbr also the
    chosen {"text"}, which has a column of its own) or {"recover", "reference", "source"} (what
    DiffuSeq writes). References are lines {"src", "trg"} or {"id", "trg"}; without an id, the line
    number counts, from 0. Everything is aligned by id. Where a source has several references,
    "trg" is a list.

    Example: diffusion-jax evaluate --hypotheses out.jsonl --references test.jsonl --mbr

    Attributes:
        hypotheses: one or more files of candidates of the same sources.
        references: the file of references; left out where the candidates' files carry them.
        preset: "standard" (sacrebleu, chrF, ROUGE-L, ...) or "diffuseq" (as its paper reports).
        tokenizer: run directory (or its tokenizer/): references and sources are first encoded and
            decoded by its tokenizer. Published numbers are against such references (BERT's: lower
            case, its own spacing); without it, capitals and spacing that a model cannot write cost.
        mbr: also choose one candidate per source by minimum Bayes risk, and score the choice.
        bertscore: model for BERTScore, one that it lists, e.g. microsoft/deberta-xlarge-mnli.
        mauve: model for MAUVE (name or directory), e.g. gpt2-large.
        output: JSON file to write the scores to; an existing file is not overwritten.
    """

    hypotheses: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE [FILE ...]")]
    references: str | None = None
    preset: Literal["standard", "diffuseq"] = "standard"
    tokenizer: str | None = None
    mbr: bool = False
    bertscore: str | None = None
    mauve: str | None = None
    output: str | None = None


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(EvaluateCommand, "evaluate", arguments)
    if command.output is not None:
        check_output(command.output)
    if command.tokenizer is not None and command.references is None:
        raise UserError(
            "--tokenizer spells the --references; those that DiffuSeq's files carry are as its "
            "tokenizer spelled them, so leave --tokenizer out"
        )
    from rich.console import Console

    from diffusion_jax.evaluate.files import read_aligned, read_tokenizer
    from diffusion_jax.evaluate.report import evaluate_texts

    texts = read_aligned(command.hypotheses, command.references)
    report = evaluate_texts(
        texts.candidates,
        texts.references,
        texts.sources,
        command.preset,
        mbr=command.mbr,
        chosen=texts.chosen,
        tokenizer=None if command.tokenizer is None else read_tokenizer(command.tokenizer),
        bertscore_model=command.bertscore,
        mauve_model=command.mauve,
    )
    if command.output is not None:
        record = {
            "hypotheses": list(command.hypotheses),
            "references": command.references,
            **report.to_dict(),
        }
        with output_stream(command.output) as stream:
            print(json.dumps(record, indent=2, ensure_ascii=False), file=stream)
    if command.output != "-":
        console = Console()
        console.print(_table(report))
        for name, signature in report.signatures.items():
            print(f"{name}: {signature}")
    return 0


def _table(report: "Report") -> "Table":
    from rich.table import Table

    table = Table(
        title=f"{report.num_sources} sources, {report.num_candidates} candidates each, "
        f"preset {report.preset}, {_spelled(report)}"
    )
    columns = _columns(report)
    table.add_column("metric")
    for name in columns:
        table.add_column(name, justify="right")
    for metric in report.candidates[0]:
        table.add_row(metric, *(f"{scores[metric]:.4f}" for scores in columns.values()))
    for metric, value in report.candidate_set.items():
        table.add_row(f"{metric} (all candidates)", f"{value:.4f}")
    return table


def _spelled(report: "Report") -> str:
    if report.tokenizer is None:
        return "references as they are"
    return f"references as a {report.tokenizer.partition(',')[0]} tokenizer spells them"


def _columns(report: "Report") -> dict[str, "Scores"]:
    columns = {"candidate 1": report.candidates[0]}
    if report.num_candidates > 1:
        columns[f"mean of {report.num_candidates}"] = report.mean()
    if report.chosen is not None:
        columns["chosen"] = report.chosen
    if report.mbr is not None:
        columns["MBR"] = report.mbr
    return columns
