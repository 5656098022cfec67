"""The tasks that control is measured on, and targets for them from texts that were held out.

A task is one control, or several joined by ``+`` (then all are taken from the same text):
attribute, pos, tree, span, length, infill.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

from diffusion_jax.config import DataConfig
from diffusion_jax.control.wishes import NEEDS
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import open_validation_corpus
from diffusion_jax.text.control_targets import MASK, Target
from diffusion_jax.text.corpora import open_corpus
from diffusion_jax.text.example import Corpus, Example, with_newlines
from diffusion_jax.text.labels import lookup, read_attributes, read_spans, read_tags
from diffusion_jax.text.tokenizers import Tokenizer

CONTROL_NAMES = {"attributes": "attribute", "spans": "span", "keep": "infill"}
"""Fields of a target whose control has another name as a task."""
Maker = Callable[[Example, Sequence[str], Random, str], Mapping[str, Any] | None]
_WHERE = "the held-out corpus"
# Tokens that infilling leaves out, of each hole.
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
    corpus = open_corpus(data, task="text") if data else open_validation_corpus(config, 0)
    if corpus is None:
        raise UserError("the run has no validation corpus; give held-out texts with --data")
    return with_newlines(corpus) if config.keep_newline else corpus


def draw_targets(
    task: str,
    examples: Iterable[Example],
    count: int,
    seed: int,
    tokenizer: Tokenizer,
    *,
    mask: str = MASK,
) -> list[Target]:
    """Return targets for a task, one from each of the first examples that can give one.

    Args:
        task: see the module.
        examples: held-out texts with the labels that the task needs.
        count: how many targets.
        seed: of the choices among an example's attributes, spans and holes.
        tokenizer: texts with words outside its vocabulary are passed over.
        mask: what marks holes.

    Raises:
        UserError: an unknown task, missing labels, or too few examples.
    """
    parts = parse_task(task)
    rng = Random(f"{task} {seed}")
    targets: list[Target] = []
    for example in examples:
        ids = tokenizer.encode(example.text)
        if tokenizer.unk_id in ids:
            continue
        fields: dict[str, Any] | None = {}
        for part in parts:
            made = MAKERS[part](example, tokenizer.tokens(ids), rng, mask)
            fields = None if made is None or fields is None else {**fields, **made}
        if fields is not None:
            targets.append(Target(**fields, reference=example.text))
        if len(targets) == count:
            return targets
    raise UserError(
        f"the held-out corpus gives {len(targets)} targets for {task}, fewer than the {count} "
        "asked for; ask for fewer or give a larger one"
    )


def _attribute(
    example: Example, tokens: Sequence[str], rng: Random, mask: str
) -> Mapping[str, Any] | None:
    said = sorted(read_attributes(example, _WHERE).items())
    return {"attributes": dict([rng.choice(said)])} if said else None


def _pos(
    example: Example, tokens: Sequence[str], rng: Random, mask: str
) -> Mapping[str, Any] | None:
    return {"pos": tuple(read_tags(example, _WHERE))}


def _tree(
    example: Example, tokens: Sequence[str], rng: Random, mask: str
) -> Mapping[str, Any] | None:
    tree = example.fields.get("tree")
    return {"tree": tree} if isinstance(tree, str) else None


def _span(
    example: Example, tokens: Sequence[str], rng: Random, mask: str
) -> Mapping[str, Any] | None:
    """Return one constituent of several tokens that is not the whole text."""
    _, spans = read_spans(example, _WHERE)
    inner = [s for s in spans if s[0] < s[1] and s[1] - s[0] + 1 < len(tokens)]
    return {"spans": (rng.choice(inner),)} if inner else None


def _length(
    example: Example, tokens: Sequence[str], rng: Random, mask: str
) -> Mapping[str, Any] | None:
    return {"length": len(tokens)}


def _infill(
    example: Example, tokens: Sequence[str], rng: Random, mask: str
) -> Mapping[str, Any] | None:
    """Return a template with one hole (left, right or inside) or two."""
    words = list(tokens)
    for _ in range(rng.choice((1, 2))):
        size = rng.randint(*_HOLE)
        start = rng.randint(0, max(len(tokens) - size - 1, 0))
        words[start : start + size] = [mask] * len(words[start : start + size])
    kept = [w for i, w in enumerate(words) if w != mask or i == 0 or words[i - 1] != mask]
    return {"keep": " ".join(kept)} if mask in kept and len(kept) > kept.count(mask) else None


MAKERS: dict[str, Maker] = {
    "attribute": _attribute,
    "pos": _pos,
    "tree": _tree,
    "span": _span,
    "length": _length,
    "infill": _infill,
}
