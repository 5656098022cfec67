"""What a classifier makes of texts that were written: their trees."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from diffusion_jax.classifier_run import read_trees
from diffusion_jax.control.steer import Controller
from diffusion_jax.text.packing import pack_text
from diffusion_jax.text.tokenizers.base import content_ids
from diffusion_jax.text.trees import format_tree

# Penn's names of what would be taken for a bracket, and a visible line end.
_LEAVES = {"(": "-LRB-", ")": "-RRB-", "\n": "\\n"}


def trees_of(controller: Controller, texts: Sequence[str]) -> list[str | None]:
    """Return the bracketing that the tree classifier sees in each text; None for one of no words.

    The chart of the clean text, projected to brackets that do not cross.

    Args:
        controller: with a tree classifier.
        texts: as ``Candidate.text``.

    Raises:
        KeyError: it has none.
    """
    trained, words = controller.classifiers["tree"], controller.tokenizer
    rows = [
        pack_text(words.encode(text), controller.length, words, on_long="truncate").input_ids
        for text in texts
    ]
    tokens = [words.tokens(content_ids(row, words)) for row in rows]
    x = controller.model.embed(controller.params, jnp.asarray(np.stack(rows)))
    time = jnp.full(len(rows), controller.generator.schedule.model_timesteps[0], jnp.float32)
    room = controller.length - 2
    counts = [min(max(len(leaves), 1), room) for leaves in tokens]
    return [
        format_tree([_LEAVES.get(leaf, leaf) for leaf in leaves[:count]], spans) if leaves else None
        for leaves, count, spans in zip(tokens, counts, read_trees(trained, x, time, counts))
    ]
