"""``diffusion-jax generate``: write a target for each source line."""

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import tyro

from diffusion_jax.cli.options import SampleOverrides, check_output, output_stream, parse, progress
from diffusion_jax.cli.resuming import begin, count_done
from diffusion_jax.errors import UserError

Id = int | str


@dataclass(frozen=True)
class GenerateCommand:
    """Write a target for each source with a trained sequence-to-sequence model.

    Each line of output is {"id", "source", "candidates"}, in the order of the input, written as it
    is made; the id is that of the input's line where it has one, or its number, from 0. With --mbr
    there is also {"text"}, the candidate that agrees best with the others. An interrupted run goes
    on where it stopped with --resume; what the texts depend on is kept beside them, in
    OUTPUT.options.json.

    Example: diffusion-jax generate runs/qqp --input questions.txt --output paraphrases.jsonl
        --candidates 10 --mbr bleu

    Attributes:
        checkpoint: the --workdir of a training run on pairs.
        input: source texts: one a line, or .jsonl with "src" (and "id"); "-" is standard input (of
            lines). Files are read twice, the first time to check them whole.
        output: file to write; "-" is standard output. An existing file is not overwritten.
        candidates: texts per source (and length, with --length-beam).
        mbr: choose one candidate by minimum Bayes risk: by "bleu" (sacrebleu's sentence BLEU) or
            "chrf" against the others, or by the published rules of "diffuseq" or "diffusion_lm".
        length_beam: lengths to try per source, the likeliest first; for models with a length head.
            A source that leaves room for fewer tries these again, with other noise.
        max_target: the most target tokens, START and END included; 0 is what the row allows.
        length_bucket: rows end soon after their target, at a multiple of this many tokens; 0 keeps
            them at full length; None does as training did, where the model knows how long a target
            is.
        truncate: cut the end off sources that are too long, instead of refusing the file; a
            quarter of the row is left to the target.
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
    mbr: Literal["bleu", "chrf", "diffuseq", "diffusion_lm"] | None = None
    length_beam: int = 1
    max_target: int = 0
    length_bucket: int | None = None
    truncate: bool = False
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
    if command.mbr is not None and _num_texts(command) < 2:
        raise UserError("--mbr chooses among candidates; ask for at least --candidates 2")
    named, again = itertools.tee(_read_sources(command.input))
    done = _count_done(command, again) if command.resume else 0
    del again
    ids, sources = _unzipped(itertools.islice(named, done, None))
    from diffusion_jax.generate import Generator

    generator = Generator.from_checkpoint(
        command.checkpoint,
        weights=command.weights,
        step=command.checkpoint_step,
        **command.sampling.given(),
    )
    if command.truncate:
        generator = generator.cutting_sources()
    total, unknown, tokenizer = None, [], generator.tokenizer
    if command.input != "-":
        # A bad line shall be known now, not after hours of work on the lines before it.
        total, seen = 0, set()
        for index, (id_, text) in enumerate(_read_sources(command.input)):
            generator.check_source(text, index)
            # As evaluate has it, to which 1 and "1" are one id.
            if str(id_) in seen:
                raise UserError(f"{command.input}: the id {id_!r} is there twice")
            seen.add(str(id_))
            total += 1
            if tokenizer.unk_id in tokenizer.encode(text):
                unknown.append(index + 1)
    generations = generator.generate(
        sources,
        num_candidates=command.candidates,
        length_beam=command.length_beam,
        max_target=command.max_target,
        length_bucket=command.length_bucket,
        seed=command.seed,
        batch_size=command.batch_size,
        first_index=done,
    )
    _tell_unknown(unknown, total)
    options = partial(
        generator.options,
        seed=command.seed,
        candidates=command.candidates,
        mbr=command.mbr,
        length_beam=command.length_beam,
        max_target=command.max_target,
        length_bucket=command.length_bucket,
        truncate=command.truncate,
    )
    begin(command.output, options, resume=command.resume)
    choose = _chooser(command.mbr)
    with (
        output_stream(command.output, append=command.resume) as stream,
        progress("writing", total, done) as advance,
    ):
        for index, (id_, generation) in enumerate(zip(ids, generations), start=done):
            record = {
                "id": id_,
                "source": generation.source,
                **choose(generation.candidates),
                "candidates": generation.candidates,
            }
            print(json.dumps(record, ensure_ascii=False), file=stream, flush=True)
            advance()
            # Standard input is known line by line, so what is to be said of it is said at the end.
            if total is None and tokenizer.unk_id in tokenizer.encode(generation.source):
                unknown.append(index + 1)
            done = index + 1
    if total is None:
        _tell_unknown(unknown, done)
    return 0


def _tell_unknown(unknown: Sequence[int], total: int | None) -> None:
    """Say which lines (from 1) have words that the model does not know."""
    if unknown:
        some = ", ".join(map(str, unknown[:5])) + ", ..." * (len(unknown) > 5)
        print(
            f"{len(unknown)} of {total} sources have words that are not in this model's "
            f"vocabulary and are read as unknown (lines {some})",
            file=sys.stderr,
        )


def _num_texts(command: GenerateCommand) -> int:
    """Return how many candidates a line holds."""
    return command.candidates * command.length_beam


def _chooser(name: str | None) -> Callable[[Sequence[str]], dict[str, str]]:
    """Return what adds the chosen text to a record, by the rule of that name."""
    if name is None:
        return lambda candidates: {}
    from diffusion_jax.mbr import RULES, Rule, mbr_select

    rule = {"bleu": RULES["standard"], "chrf": Rule("chrf"), **RULES}[name]

    def choose(candidates: Sequence[str]) -> dict[str, str]:
        chosen = mbr_select([candidates], rule.utility, role=rule.role, ties=rule.ties)
        return {"text": candidates[int(chosen[0])]}

    return choose


def _unzipped(named: Iterator[tuple[Id, str]]) -> tuple[Iterator[Id], Iterator[str]]:
    """Return ids and sources; no more of them is held than lies between their readers."""
    one, other = itertools.tee(named)
    return (id_ for id_, _ in one), (source for _, source in other)


def _read_sources(path: str) -> Iterator[tuple[Id, str]]:
    """Return an iterator over ids and source texts; that there is a file is checked at once."""
    from diffusion_jax.text.corpora import open_corpus
    from diffusion_jax.text.files import check_file, read_input

    if path.endswith((".json", ".csv", ".tsv")):
        raise UserError(
            f'--input {path}: sources are one a line (.txt), or JSON lines with "src" (.jsonl)'
        )
    if path.endswith(".jsonl"):
        corpus = open_corpus(path, columns={"text": "src"}, task="text")
        return (
            (_id_of(example.fields.get("id", index), path), example.text)
            for index, example in enumerate(corpus)
        )
    if path != "-":
        check_file(path)
    return ((index, line) for index, (_, line) in enumerate(read_input(path)))


def _id_of(value: Any, path: str) -> Id:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise UserError(f"{path}: the id {value!r} is neither a text nor a whole number")
    return value


def _count_done(command: GenerateCommand, sources: Iterator[tuple[Id, str]]) -> int:
    """Return how many complete lines the output already has.

    Raises:
        UserError: the output was written by something else, or for other sources.
    """
    chosen = command.mbr is not None
    return count_done(
        command.output,
        ((id_, source, _num_texts(command), chosen) for id_, source in sources),
        lambda r: (r["id"], r["source"], len(r["candidates"]), "text" in r),
        "id, source, number of candidates and whether one is chosen",
    )
