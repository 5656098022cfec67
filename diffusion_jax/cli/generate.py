"""``diffusion-jax generate``: write a target for each source line."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from diffusion_jax.cli.options import SampleOverrides, check_output, output_stream, parse
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class GenerateCommand:
    """Write a target for each source with a trained sequence-to-sequence model.

    Each line of output is {"id", "source", "candidates"}, in the order of the input, written as it
    is made. An interrupted run goes on where it stopped with --resume.

    Example: diffusion-jax generate runs/qqp --input questions.txt --output paraphrases.jsonl

    Attributes:
        checkpoint: the --workdir of a training run on pairs.
        input: source texts: one a line, or .jsonl with "src"; "-" is standard input.
        output: file to write; "-" is standard output. An existing file is not overwritten.
        candidates: texts per source.
        seed: candidate c of source i depends on the seed, i and c alone.
        batch_size: rows per compiled call (sources times candidates).
        resume: continue an output file that was begun.
        weights: "ema", "ema RATE" or "params" (not averaged).
        checkpoint_step: which checkpoint; None is the newest that is intact.
        sampling: how to sample, where it shall differ from the run's configuration.
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    input: Annotated[str, tyro.conf.arg(aliases=["-i"])]
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "-"
    candidates: int = 1
    seed: int = 0
    batch_size: int = 64
    resume: bool = False
    weights: str = "ema"
    checkpoint_step: int | None = None
    sampling: Annotated[SampleOverrides, tyro.conf.arg(name="")] = field(
        default_factory=SampleOverrides
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(GenerateCommand, "generate", arguments)
    check_output(command.output, append=command.resume)
    sources = _read_sources(command.input)
    done = _count_done(command, sources) if command.resume else 0
    from diffusion_jax.generate import Generator

    generator = Generator.from_checkpoint(
        command.checkpoint,
        weights=command.weights,
        step=command.checkpoint_step,
        **command.sampling.given(),
    )
    if command.input != "-":
        # A bad line shall be known now, not after hours of work on the lines before it.
        for index, text in enumerate(_read_sources(command.input)):
            generator.check_source(text, index)
    generations = generator.generate(
        sources,
        num_candidates=command.candidates,
        seed=command.seed,
        batch_size=command.batch_size,
        first_index=done,
    )
    if command.resume:
        _cut_unfinished_line(Path(command.output))
    with output_stream(command.output, append=command.resume) as stream:
        for index, generation in enumerate(generations, start=done):
            record = {
                "id": index,
                "source": generation.source,
                "candidates": generation.candidates,
            }
            print(json.dumps(record, ensure_ascii=False), file=stream, flush=True)
            if command.output != "-" and sys.stderr.isatty():
                print(f"\r{index + 1} written", end="", file=sys.stderr)
    return 0


def _read_sources(path: str) -> Iterator[str]:
    """Yield source texts; the file is opened and looked at at once."""
    if path == "-":
        return (line.rstrip("\n") for line in sys.stdin)
    from diffusion_jax.text.corpora import open_corpus
    from diffusion_jax.text.files import read_lines

    if path.endswith(".jsonl"):
        corpus = open_corpus(path, columns={"text": "src"}, task="text")
        return (example.text for example in corpus)
    return (line for _, line in read_lines(Path(path)))


def _count_done(command: GenerateCommand, sources: Iterator[str]) -> int:
    """Return how many complete lines the output already has, taking their sources from the input.

    Raises:
        UserError: the output was written by something else, or for other sources.
    """
    if command.output == "-":
        raise UserError("--resume continues a file; give --output")
    path = Path(command.output)
    if not path.exists():
        return 0
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    for index, line in enumerate(lines):
        try:
            record = json.loads(line)
            found = (record["id"], record["source"], len(record["candidates"]))
        except (ValueError, KeyError, TypeError):
            found = None
        expected = (index, next(sources, None), command.candidates)
        if found != expected:
            raise UserError(
                f"{path} line {index + 1} is not output of this command (expected id, source and "
                f"number of candidates {expected}, found {found}); choose another --output"
            )
    return len(lines)


def _cut_unfinished_line(path: Path) -> None:
    """Remove what an interrupted run wrote after the last complete line."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
