"""Minimum Bayes risk: of several candidates, choose the one that agrees most with the others."""

from diffusion_jax.mbr.select import RULES, Rule, mbr_scores, mbr_select
from diffusion_jax.mbr.utilities import UTILITIES, NgramUtility, Utility, pairwise_utility

__all__ = [
    "RULES",
    "UTILITIES",
    "NgramUtility",
    "Rule",
    "Utility",
    "mbr_scores",
    "mbr_select",
    "pairwise_utility",
]
