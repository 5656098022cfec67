"""Targets become arrays: a row of every array for every text that shall be written.

What is wanted is a row of every array, so one compiled program serves all targets that use the same
kinds of controls, and the rows of a batch may want different things.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.classifier_run import TrainedClassifier
from diffusion_jax.config import GuidanceConfig
from diffusion_jax.errors import UserError
from diffusion_jax.text.control_targets import Target, check_target
from diffusion_jax.text.labels import FREE, AttributeLabels, SpanLabels, TagLabels
from diffusion_jax.text.templates import Layout, Template, encode_known, fill_row
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.text.trees import NO_TAG, UNARY, Tree, parse_tree

# Field of a target -> task of the classifier that tells it.
NEEDS = {"attributes": "attribute", "pos": "pos", "tree": "tree", "spans": "tree"}


class Wish(NamedTuple):
    """One kind of control for a batch.

    Attributes:
        targets: int32 [B, ...], -1 where a row wants nothing: values [B, F] of "attribute", tags
            [B, L] of "pos", charts [B, L, L] of "tree", ids [B, L] of "words", ids [B, W] of
            "keywords".
        weight: float32 [B], weight of the mean over what is wanted.
    """

    targets: Any
    weight: Any


class Plan(NamedTuple):
    """One row to write: a target, and how its template's holes are laid out.

    Attributes:
        target: what is asked.
        template: of ``target.keep``; None without one.
        layout: tokens of each hole; () without a template.
    """

    target: Target
    template: Template | None = None
    layout: Layout = ()

    def num_tokens(self) -> int | None:
        """Return the length of the text where the plan settles it."""
        if self.template is None:
            return self.target.fixed_length()
        return self.template.num_words + sum(self.layout)


def check_targets(
    targets: Sequence[Target],
    classifiers: Mapping[str, TrainedClassifier],
    tokenizer: Tokenizer,
    row_length: int,
) -> None:
    """Raise UserError for a target that this model and these classifiers cannot honour."""
    for number, target in enumerate(targets, start=1):
        try:
            check_target(target, row_length - 2)
            for control in target.controls():
                task = NEEDS.get(control)
                if task and task not in classifiers:
                    raise UserError(
                        f"{control} needs a classifier for the task {task!r}; train one with "
                        f"diffusion-jax train-classifier --task {task} and give its directory with "
                        "--classifier"
                    )
            plan_wishes(Plan(target), classifiers, tokenizer, row_length, GuidanceConfig())
        except UserError as error:
            raise UserError(f"target {number}: {error}") from error


class PlanRow(NamedTuple):
    """What goes into the chain for one plan, arrays [L].

    Attributes:
        input_ids: int32, the words that are anchored.
        noise_mask: bool, true where the chain generates.
        word_mask: bool, true where it must generate a word.
    """

    input_ids: np.ndarray
    noise_mask: np.ndarray
    word_mask: np.ndarray


def plan_row(plan: Plan, tokenizer: Tokenizer, length: int, options: GuidanceConfig) -> PlanRow:
    """Return the row that goes into the chain, with what is anchored in place.

    START is given wherever something is asked by position; END and padding where the length is
    known, and then all between is words.
    """
    nothing = np.zeros(length, np.bool_)
    if plan.template is not None and options.keep_by == "anchor":
        row = fill_row(plan.template, plan.layout, length, tokenizer)
        return PlanRow(row.input_ids, row.noise_mask, row.noise_mask)
    ids, generated = np.full(length, tokenizer.pad_id, np.int32), ~nothing
    count = plan.num_tokens()
    positional = set(plan.target.controls()) - {"attributes", "keywords"}
    if positional:
        ids[0], generated[0] = tokenizer.start_id, False
    if count is None or options.length_by == "gradient":
        return PlanRow(ids, generated, nothing)
    ids[count + 1] = tokenizer.end_id
    generated[count + 1 :] = False
    return PlanRow(ids, generated, generated)


def plan_wishes(
    plan: Plan,
    classifiers: Mapping[str, TrainedClassifier],
    tokenizer: Tokenizer,
    length: int,
    options: GuidanceConfig,
) -> dict[str, Wish]:
    """Return what one row asks of the guide: kind -> Wish of unbatched arrays.

    Raises:
        UserError: an unknown field, value, label or word; the nearest is named.
    """
    target = plan.target
    wishes: dict[str, Wish] = {}
    if target.attributes:
        labels = classifiers["attribute"].labels_as(AttributeLabels)
        wishes["attribute"] = Wish(labels.encode(target.attributes), options.attribute_weight)
    if target.pos is not None:
        tags = classifiers["pos"].labels_as(TagLabels).encode(target.pos, length)
        wishes["pos"] = Wish(tags, options.pos_weight)
    if target.tree is not None or target.spans:
        spans = classifiers["tree"].labels_as(SpanLabels)
        if target.tree is not None:
            tree = parse_tree(target.tree)
            _check_tags(tree, spans)
            chart = spans.encode(tree.spans, length, num_tokens=len(tree.tokens))
            wishes["tree"] = Wish(chart, options.tree_weight)
        else:
            wishes["tree"] = Wish(spans.encode(target.spans, length), options.span_weight)
    words = _wanted_words(plan, tokenizer, length, options)
    if words is not None:
        wishes["words"] = Wish(words, options.word_weight)
    if target.keywords:
        ids = keyword_ids(target, tokenizer)
        count = plan.num_tokens()
        if len(ids) > (length - 2 if count is None else count):
            room = f"this model writes at most {length - 2}"
            raise UserError(
                f"contradictory controls: the keywords are {len(ids)} tokens, and "
                f"{room if count is None else f'the length is {count}'}"
            )
        wishes["keywords"] = Wish(np.asarray(ids, np.int32), options.keyword_weight)
    return wishes


def _check_tags(tree: Tree, labels: SpanLabels) -> None:
    """Raise UserError where a part of speech has the name of a constituent, and is likely meant so.

    A bracket around one word is a part of speech unless Penn's labels say otherwise; a classifier
    of another treebank knows others.
    """
    of_one_word = {(i, label.split(UNARY)[-1]) for i, end, label in tree.spans if i == end}
    for place, (token, tag) in enumerate(zip(tree.tokens, tree.tags)):
        if tag in labels.labels and tag != NO_TAG and (place, tag) not in of_one_word:
            raise UserError(
                f"({tag} {token}) in the tree is read as a part of speech, and {tag} is a "
                f"constituent of the classifier; write ({tag} (X {token})) to ask for that, or "
                f"{token} alone"
            )


def keyword_ids(target: Target, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of the keywords; what is asked twice must appear twice.

    Raises:
        UserError: an empty keyword, or a word outside the vocabulary.
    """
    if not all(map(str.strip, target.keywords)):
        raise UserError("a keyword is empty; give a word that must appear")
    return [i for word in target.keywords for i in encode_known(word, tokenizer)]


def has_keywords(target: Target, ids: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Return whether every keyword is among the ids of a text, as often as it is asked."""
    return not Counter(keyword_ids(target, tokenizer)) - Counter(ids)


def _wanted_words(
    plan: Plan, tokenizer: Tokenizer, length: int, options: GuidanceConfig
) -> np.ndarray | None:
    """Return ids [L] that the guide climbs, -1 where free; None where nothing goes by gradient."""
    count = plan.num_tokens()
    words = np.full(length, FREE, np.int32)
    if plan.template is not None and options.keep_by == "gradient":
        row = fill_row(plan.template, plan.layout, length, tokenizer)
        return np.where(row.noise_mask, FREE, row.input_ids).astype(np.int32)
    if plan.template is None and count is not None and options.length_by == "gradient":
        words[count + 1] = tokenizer.end_id
        words[count + 2 :] = tokenizer.pad_id
        return words
    return None


def stack_wishes(
    rows: Sequence[Mapping[str, Wish]], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Wish]:
    """Return the wishes of a batch; a row without one of the kinds gets -1 and weight 0.

    Args:
        rows: what each row asks.
        shapes: kinds that the batch has, with the shape of a row's targets; None takes what there
            is.
    """
    if shapes is None:
        shapes = {}
        for kind in sorted({kind for row in rows for kind in row}):
            given = [np.shape(row[kind].targets) for row in rows if kind in row]
            shapes[kind] = tuple(map(max, zip(*given)))
    stacked = {}
    for kind, shape in shapes.items():
        targets = np.full((len(rows), *shape), FREE, np.int32)
        weight = np.zeros(len(rows), np.float32)
        for number, row in enumerate(rows):
            if kind in row:
                values = np.asarray(row[kind].targets)
                targets[(number, *map(slice, values.shape))] = values
                weight[number] = row[kind].weight
        stacked[kind] = Wish(targets, weight)
    return stacked
