"""Choose among candidates by minimum Bayes risk (Kumar and Byrne 2004)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.mbr.utilities import Utility, pairwise_utility

Role = Literal["hypothesis", "reference"]
Ties = Literal["first", "last"]

# Scores that are closer than this (relative) are equal: the order in which equal utilities are
# added must not decide.
_TIE = 1e-12


@dataclass(frozen=True)
class Rule:
    """One published way to choose.

    Attributes:
        utility: agreement of a hypothesis with a reference.
        role: what a candidate is when it is scored against the others.
        ties: which of several best candidates is taken.
    """

    utility: Utility
    role: Role = "hypothesis"
    ties: Ties = "first"


# SeqDiffuSeq (Yuan et al. 2022) chooses by the standard rule.
RULES = {
    "standard": Rule("sacrebleu"),
    "diffuseq": Rule("nltk_bleu"),
    "diffusion_lm": Rule("e2e_bleu_published", role="reference", ties="last"),
}


def mbr_scores(
    candidates: Sequence[Sequence[str]],
    utility: Utility = "sacrebleu",
    *,
    role: Role = "hypothesis",
) -> np.ndarray:
    """Return each candidate's mean utility against the other candidates of its source.

    Args:
        candidates: S sources with C >= 2 candidates each.
        utility: a name (see ``diffusion_jax.mbr.utilities``) or a function (hypothesis, reference)
            to a finite number, the higher the better.
        role: "hypothesis": a candidate is scored against each other one as its reference;
            "reference": each other one is scored against the candidate.

    Returns:
        float64 [S, C].

    Raises:
        UserError: fewer than two candidates, or not the same number for every source; no such
            utility or role; a utility that is infinite or not a number.
    """
    if role not in get_args(Role):
        raise UserError(f"role is {role!r}, but must be one of: {', '.join(get_args(Role))}")
    matrix = pairwise_utility(candidates, utility)
    num_candidates = matrix.shape[-1]
    if num_candidates < 2:
        raise UserError("there is one candidate per source; a choice needs at least two")
    others = matrix * ~np.eye(num_candidates, dtype=bool)
    scores = others.sum(axis=2 if role == "hypothesis" else 1) / (num_candidates - 1)
    if not np.isfinite(scores).all():
        source = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
        raise UserError(
            f"the utility is infinite or not a number (nan) for candidates of source {source}; it "
            "must be finite, as means are compared"
        )
    return scores


def mbr_select(
    candidates: Sequence[Sequence[str]],
    utility: Utility = "sacrebleu",
    *,
    role: Role = "hypothesis",
    ties: Ties = "first",
) -> np.ndarray:
    """Choose the candidate of highest mean utility for each source.

    Args:
        candidates: S sources with C >= 2 candidates each.
        utility: as for ``mbr_scores``.
        role: as for ``mbr_scores``.
        ties: "first" or "last" of several best.

    Returns:
        int64 [S], the index of the chosen candidate.

    Raises:
        UserError: as for ``mbr_scores``; no such ``ties``.
    """
    if ties not in get_args(Ties):
        raise UserError(f"ties is {ties!r}, but must be one of: {', '.join(get_args(Ties))}")
    scores = mbr_scores(candidates, utility, role=role)
    highest = scores.max(axis=1, keepdims=True)
    best = scores >= highest - _TIE * np.maximum(np.abs(highest), 1.0)
    if ties == "first":
        return best.argmax(axis=1)
    return best.shape[1] - 1 - best[:, ::-1].argmax(axis=1)
