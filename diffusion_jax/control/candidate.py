"""One text that was written for a target, and what its tokens show of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from diffusion_jax.control.wishes import Plan, has_keywords
from diffusion_jax.text.templates import keeps
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.text.tokenizers.base import content_ids


@dataclass(frozen=True)
class Candidate:
    """One text that was written for a target.

    Attributes:
        text: as the tokenizer decodes it; a line end that the model wrote is kept.
        log_probs: kind of control -> mean log-probability under its classifier, on the clean text.
        model_score: pseudo log-likelihood under the model itself, see ``score.denoising_score``.
        complete: what the tokens alone can tell holds: the words of the template are kept, the
            length is what was asked, every keyword appears.
        plan: what was asked, and how the holes were laid out.
    """

    text: str
    log_probs: Mapping[str, float]
    model_score: float
    complete: bool
    plan: Plan


def decode(row: np.ndarray, tokenizer: Tokenizer) -> str:
    """Return a row's text with the line ends that ``Tokenizer.decode`` strips; they are tokens."""
    tokens = tokenizer.tokens(content_ids(row, tokenizer))
    ends = len(list(takewhile(lambda token: token == "\n", reversed(tokens))))
    return tokenizer.decode(row) + " \n" * ends


def is_complete(row: np.ndarray, plan: Plan, tokenizer: Tokenizer) -> bool:
    """Return whether all holds that needs neither a classifier nor a judge."""
    ids = content_ids(row, tokenizer)
    if plan.template is not None:
        fits = keeps(plan.template, ids)
    else:
        fits = plan.num_tokens() in (None, len(ids))
    return fits and has_keywords(plan.target, ids, tokenizer)
