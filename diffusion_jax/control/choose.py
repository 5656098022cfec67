"""Choosing among the candidates that were written for a target."""

from collections.abc import Sequence
from typing import Literal, get_args

from diffusion_jax.control.steer import Candidate
from diffusion_jax.errors import UserError
from diffusion_jax.mbr import mbr_scores

Choice = Literal["classifier", "model", "mbr"]


def rank(candidates: Sequence[Candidate], how: Choice) -> list[Candidate]:
    """Return the distinct texts among the candidates, best first; see ``order``."""
    best: dict[str, Candidate] = {}
    for index in order(candidates, how):
        best.setdefault(candidates[index].text, candidates[index])
    return list(best.values())


def order(candidates: Sequence[Candidate], how: Choice) -> list[int]:
    """Return the indices of the candidates, best first.

    Complete candidates come before those with END or padding in a hole.

    Args:
        candidates: of one target.
        how: "classifier": the sum of the log-probabilities under the classifiers, the model itself
            deciding between equals and where no classifier has been asked; "model": the pseudo
            log-likelihood under the model itself; "mbr": the mean agreement with the other
            candidates (sentence BLEU).

    Raises:
        UserError: no such way.
    """
    if how not in get_args(Choice):
        raise UserError(f"choose is {how!r}; use one of {', '.join(get_args(Choice))}")
    agreement = [0.0] * len(candidates)
    if how == "mbr" and len(candidates) > 1:
        agreement = list(mbr_scores([[candidate.text for candidate in candidates]])[0])

    def merit(index: int) -> tuple[bool, float, float]:
        candidate = candidates[index]
        classified = sum(candidate.log_probs.values()) if how == "classifier" else 0.0
        return candidate.complete, classified + agreement[index], candidate.model_score

    return sorted(range(len(candidates)), key=merit, reverse=True)
