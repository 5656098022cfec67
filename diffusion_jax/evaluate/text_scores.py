"""How likely texts are under a model, one by one and together."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffusion_jax.errors import UserError


class TextScore(NamedTuple):
    """How likely a text is under the model.

    Attributes:
        nats: ``-log p(text)``, its end included.
        tokens: number of its tokens, without START and END.
        unknown: how many of them the vocabulary does not have.
    """

    nats: float
    tokens: int
    unknown: int


class ScoreSummary(NamedTuple):
    """Scores of many texts together.

    Attributes:
        texts: how many.
        tokens: of all texts.
        unknown: share of the tokens that the vocabulary does not have.
        nats_per_text: mean of ``-log p(text)``.
        nats_per_text_error: its standard error.
        nats_per_token: all nats over all tokens (END costs nats but is not counted, as in the
            entropy of the grammar).
    """

    texts: int
    tokens: int
    unknown: float
    nats_per_text: float
    nats_per_text_error: float
    nats_per_token: float


def summarise(scores: Sequence[TextScore]) -> ScoreSummary:
    """Return the means; raises UserError where there is no text."""
    if not scores:
        raise UserError("there is no text to score")
    nats = np.asarray([score.nats for score in scores])
    tokens = sum(score.tokens for score in scores)
    error = float(np.std(nats, ddof=1) / np.sqrt(len(nats))) if len(nats) > 1 else float("nan")
    return ScoreSummary(
        len(scores),
        tokens,
        sum(score.unknown for score in scores) / max(tokens, 1),
        float(np.mean(nats)),
        error,
        float(np.sum(nats) / max(tokens, 1)),
    )
