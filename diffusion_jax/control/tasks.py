"""The tasks that control is measured on, and targets for them from texts that were held out.

A task is one control, or several joined by ``+`` (then all are taken from the same text):
attribute, pos, tree, span, length, infill.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from diffusion_jax.config import DataConfig
from diffusion_jax.control.wishes import NEEDS
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import open_validation_corpus
from diffusion_jax.text.control_targets import MASK, Target, parse_tags
from diffusion_jax.text.corpora import open_corpus
from diffusion_jax.text.example import Corpus, Example, words_of
from diffusion_jax.text.labelled import (
    spans_of_tokens,
    tags_of_tokens,
    tags_of_words,
    word_positions,
)
from diffusion_jax.text.labels import ABSENT, lookup, read_attributes, read_spans, read_tags
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.text.trees import NO_TAG, format_tree, leaf_of

CONTROL_NAMES = {"attributes": "attribute", "spans": "span", "keep": "infill"}
"""Fields of a target whose control has another name as a task."""
_WHERE = "the held-out corpus"
# Words that infilling leaves out, of each hole.
_HOLE = (1, 4)
# Grammar sentences to draw targets from; not all can give one for every task.
_MAX_EXAMPLES = 5000


def parse_task(name: str) -> tuple[str, ...]:
    """Return the single controls of a task; raises UserError for an unknown one."""
    parts = tuple(part.strip() for part in name.split("+"))
    for part in parts:
        lookup(part, list(MAKERS), "task")
    if len(set(parts)) < len(parts):
        raise UserError(f"task {name!r} names a control twice")
    if {"infill", "pos"} <= set(parts) or {"infill", "tree"} <= set(parts):
        raise UserError(f"task {name!r}: infill leaves the length open, tags and trees settle it")
    return parts


def needed_classifiers(tasks: Iterable[str], targets: Iterable[Target] = ()) -> set[str]:
    """Return the tasks of the classifiers that these tasks and targets need."""
    names = {part for task in tasks for part in parse_task(task)}
    controls = {control for target in targets for control in target.controls()}
    fields = {name: field for field, name in CONTROL_NAMES.items()}
    return {NEEDS[name] for name in controls | {fields.get(n, n) for n in names} if name in NEEDS}


def held_out(config: DataConfig, data: str, seed: int) -> Corpus:
    """Return the texts that targets are drawn from.

    Args:
        config: the data of the model's run.
        data: a corpus with labels, in any format; empty is the grammar's test split, or the run's
            validation corpus, read as the run reads it.
        seed: of the grammar's draws.

    Returns:
        The texts; they end with a newline where the run's do.

    Raises:
        UserError: nothing was held out, or it cannot be read.
    """
    spec = data or config.validation or config.corpus
    if spec.startswith("grammar:"):
        size = spec.partition("/")[0]
        return open_corpus(size, split="test", size=_MAX_EXAMPLES, seed=seed)
    if data:
        return open_corpus(data, task="text", keep_newline=config.keep_newline)
    corpus = open_validation_corpus(config, 0)
    if corpus is None:
        raise UserError("the run has no validation corpus; give held-out texts with --data")
    return corpus


def draw_targets(
    task: str,
    examples: Corpus,
    count: int,
    seed: int,
    tokenizer: Tokenizer,
    *,
    max_tokens: int | None = None,
    mask: str = MASK,
) -> list[Target]:
    """Return targets for a task, each from one of the examples that can give one.

    The grammar's examples are a random draw and are taken as they come. Those of a file are
    shuffled by the seed, as neighbours often say the same (E2E files are sorted by meaning), and
    nothing is asked twice while there is something else to ask.

    Args:
        task: see the module.
        examples: held-out texts with the labels that the task needs.
        count: how many targets.
        seed: of the order, and of the choices among an example's attributes, spans and holes.
        tokenizer: texts with words outside its vocabulary are passed over.
        max_tokens: the most tokens that the model writes; longer texts are passed over.
        mask: what marks holes.

    Raises:
        UserError: an unknown task, missing or wrong labels (the example is named), or too few
            examples.
    """
    parts = parse_task(task)
    rng = Random(f"{task} {seed}")
    drawn_at_random = examples.identity["format"] == "grammar"
    targets: list[Target] = []
    repeated: list[Target] = []
    asked: set[str] = set()
    passed_over = 0
    for example in examples if drawn_at_random else _shuffled(examples, seed):
        ids = tokenizer.encode(example.text)
        if tokenizer.unk_id in ids or (max_tokens is not None and len(ids) > max_tokens):
            passed_over += 1
            continue
        target = _draw(parts, _Text(example, ids, tokenizer, mask), rng)
        if target is None:
            continue
        wanted = json.dumps(target.to_json(), sort_keys=True)
        if wanted in asked and not drawn_at_random:
            repeated.append(target)
            continue
        asked.add(wanted)
        targets.append(target)
        if len(targets) == count:
            return targets
    targets += repeated[: count - len(targets)]
    if len(targets) == count:
        return targets
    raise UserError(
        f"the held-out corpus gives {len(targets)} targets for {task}, fewer than the {count} "
        f"asked for ({passed_over} texts are too long for the model, or have words that it does "
        "not know); ask for fewer or give a larger one"
    )


def _shuffled(examples: Iterable[Example], seed: int) -> list[Example]:
    held = list(examples)
    Random(f"order {seed}").shuffle(held)
    return held


@dataclass(frozen=True)
class _Text:
    """A held-out text, and how the model has it.

    Attributes:
        example: with its labels, which are of words.
        ids: of its tokens.
        tokenizer: of the model.
        mask: what marks holes.
    """

    example: Example
    ids: Sequence[int]
    tokenizer: Tokenizer
    mask: str

    def positions(self) -> list[range]:
        """Return the tokens of each word; targets count tokens."""
        return word_positions(self.example.text, self.tokenizer)


def _draw(parts: Iterable[str], text: _Text, rng: Random) -> Target | None:
    """Return a target that asks for all of these of one text, None where it has not all."""
    fields: dict[str, Any] | None = {}
    try:
        for part in parts:
            made = MAKERS[part](text, rng)
            fields = None if made is None or fields is None else {**fields, **made}
    except UserError as error:
        place = f"{_WHERE}, example {text.example.id}"
        raise UserError(str(error) if place in str(error) else f"{place}: {error}") from None
    return None if fields is None else Target(**fields, reference=text.example.text)


def _attribute(text: _Text, rng: Random) -> Mapping[str, Any] | None:
    told = read_attributes(text.example, _WHERE)
    said = sorted((name, value) for name, value in told.items() if value != ABSENT)
    return {"attributes": dict([rng.choice(said)])} if said else None


def _pos(text: _Text, rng: Random) -> Mapping[str, Any] | None:
    tags = tags_of_words(read_tags(text.example, _WHERE), text.example.text)
    return {"pos": tuple(tags_of_tokens(parse_tags(tags), text.positions()))}


def _tree(text: _Text, rng: Random) -> Mapping[str, Any] | None:
    """Return the tree; where its leaves are not the text's tokens, one over these."""
    tree = text.example.fields.get("tree")
    count, spans = read_spans(text.example, _WHERE)
    if isinstance(tree, str) and count == len(text.ids):
        return {"tree": tree}
    if not spans:
        return None
    leaves = [leaf_of(token) for token in text.tokenizer.tokens(text.ids)]
    found = spans_of_tokens(spans, text.positions())
    return {"tree": format_tree(leaves, found, [NO_TAG] * len(leaves))}


def _span(text: _Text, rng: Random) -> Mapping[str, Any] | None:
    """Return one constituent of several tokens that is not the whole text."""
    _, spans = read_spans(text.example, _WHERE)
    spans = spans_of_tokens(spans, text.positions())
    inner = [s for s in spans if s[0] < s[1] and s[1] - s[0] + 1 < len(text.ids)]
    return {"spans": (rng.choice(inner),)} if inner else None


def _length(text: _Text, rng: Random) -> Mapping[str, Any] | None:
    return {"length": len(text.ids)}


def _infill(text: _Text, rng: Random) -> Mapping[str, Any] | None:
    """Return a template with one hole (left, right or inside) or two, between words."""
    words, mask = words_of(text.example.text), text.mask
    for _ in range(rng.choice((1, 2))):
        size = rng.randint(*_HOLE)
        start = rng.randint(0, max(len(words) - size - 1, 0))
        words[start : start + size] = [mask] * len(words[start : start + size])
    kept = [w for i, w in enumerate(words) if w != mask or i == 0 or words[i - 1] != mask]
    return {"keep": " ".join(kept)} if mask in kept and len(kept) > kept.count(mask) else None


MAKERS: dict[str, Callable[[_Text, Random], Mapping[str, Any] | None]] = {
    "attribute": _attribute,
    "pos": _pos,
    "tree": _tree,
    "span": _span,
    "length": _length,
    "infill": _infill,
}
