"""``diffusion-jax score``: how likely texts are under an autoregressive Transformer."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from diffusion_jax.cli.options import check_output, output_stream, parse


@dataclass(frozen=True)
class ScoreCommand:
    """Measure fluency: nats per token of texts under a teacher that train-ar trained.

    One JSON object per text goes to the output, the means to standard error.

    Example: diffusion-jax score --teacher runs/teacher --texts samples.txt

    Attributes:
        teacher: the --workdir of train-ar.
        texts: a file with one text a line (.txt), or JSON lines with "text" (or "src" and "trg").
        truncate: score texts that do not fit the teacher's rows as far as they do, without their
            end; else they are refused. Texts after sources have to fit.
        summary: write the means alone, as one JSON object.
        weights: "ema", "ema RATE" or "params" (not averaged).
        output: where the JSON goes; "-" is standard output.
    """

    teacher: str
    texts: str
    truncate: bool = False
    summary: bool = False
    weights: str = "ema"
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "-"


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(ScoreCommand, "score", arguments)
    check_output(command.output)
    from diffusion_jax.autoregressive_run import TrainedAutoregressive
    from diffusion_jax.evaluate.text_scores import summarise
    from diffusion_jax.text.corpora import open_corpus

    teacher = TrainedAutoregressive.load(command.teacher, weights=command.weights)
    examples = list(open_corpus(command.texts, task="pair" if teacher.config.paired else "text"))
    if teacher.config.paired:
        sources: list[str] | None = [example.src or "" for example in examples]
        texts = [example.trg or "" for example in examples]
    else:
        sources, texts = None, [example.text for example in examples]
    scores = teacher.score(texts, sources, truncate=command.truncate)
    means = summarise(scores)
    with output_stream(command.output) as stream:
        if command.summary:
            print(json.dumps(means._asdict(), indent=2), file=stream)
            return 0
        for text, score in zip(texts, scores):
            per_token = score.nats / max(score.tokens, 1)
            record = {"text": text, **score._asdict(), "nats_per_token": per_token}
            print(json.dumps(record, ensure_ascii=False), file=stream)
    print(
        f"{means.texts} texts: {means.nats_per_text:.3f} +- {means.nats_per_text_error:.3f} nats "
        f"per text, {means.nats_per_token:.4f} nats per token, {means.unknown:.2%} unknown",
        file=sys.stderr,
    )
    return 0
