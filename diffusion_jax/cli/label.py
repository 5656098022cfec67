"""``diffusion-jax label``: labelled JSON lines from plain texts, by spaCy and benepar."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from diffusion_jax.cli.options import check_output, output_stream, parse, progress


@dataclass(frozen=True)
class LabelCommand:
    """Tag texts with spaCy, and parse them with benepar, for train-classifier.

    Words stand between spaces, as the word tokenizer has them. The packages are the extra
    "annotate"; the models are installed as their projects say.

    Example: diffusion-jax label train.txt -o labelled.jsonl --tagger en_core_web_sm

    Attributes:
        texts: texts in any form that training reads: lines, E2E, csv, JSON lines.
        tagger: a spaCy pipeline that is installed, or its directory, for "pos".
        parser: a benepar model that is installed, for "spans".
        size: read at most this many texts.
        output: where the JSON lines go; "-" is standard output.
    """

    texts: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEXTS")]
    tagger: str
    parser: str | None = None
    size: int | None = None
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "-"


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(LabelCommand, "label", arguments)
    check_output(command.output)
    from diffusion_jax.control.annotators import spacy_annotator
    from diffusion_jax.text.corpora import open_corpus

    corpus = open_corpus(command.texts, task="text", size=command.size)
    annotate = spacy_annotator(command.tagger, command.parser)
    with (
        output_stream(command.output) as stream,
        progress("labelling", command.size) as advance,
    ):
        for example in corpus:
            found = annotate(example.text.split())
            record = {"text": example.text, "pos": list(found.pos or [])}
            if found.spans is not None:
                record["spans"] = [list(span) for span in found.spans]
            if "attributes" in example.fields:
                record["attributes"] = dict(example.fields["attributes"])
            print(json.dumps(record, ensure_ascii=False), file=stream)
            advance()
    return 0
