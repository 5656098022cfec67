"""``diffusion-jax generate``: write a target for each source line."""

import itertools
import json
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
    done = _lines_done(command) if command.resume else 0
    sources = _read_sources(command.input)
    for index, text in enumerate(_read_sources(command.input) if command.input != "-" else ()):
        if not text.strip():
            raise UserError(f"{command.input} line {index + 1} is empty; each needs a source text")
    from diffusion_jax.generate import Generator

    generator = Generator.from_checkpoint(
        command.checkpoint,
        weights=command.weights,
        step=command.checkpoint_step,
        **command.sampling.given(),
    )
    generations = generator.generate(
        itertools.islice(sources, done, None),
        num_candidates=command.candidates,
        seed=command.seed,
        batch_size=command.batch_size,
        first_index=done,
    )
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


def _lines_done(command: GenerateCommand) -> int:
    """Return how many complete lines the output already has; cut off a half-written last one."""
    if command.output == "-":
        raise UserError("--resume continues a file; give --output")
    path = Path(command.output)
    if not path.exists():
        return 0
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    lines = complete.splitlines()
    for index, line in enumerate(lines):
        try:
            known = json.loads(line)["id"] == index
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise UserError(
                f"{path} line {index + 1} is not output of this command (id {index} expected); "
                "choose another --output"
            )
    if len(complete) < len(content):
        path.write_bytes(complete)
    return len(lines)
