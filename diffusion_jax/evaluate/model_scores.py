"""Metrics that ask another model: BERTScore and MAUVE; they need the extra ``eval``."""

import importlib
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.overlap import References, reference_groups

# What DiffuSeq's tables are computed with, and MAUVE's own default.
BERTSCORE_MODEL = "microsoft/deberta-xlarge-mnli"
MAUVE_MODEL = "gpt2-large"


def bertscore(
    hypotheses: Sequence[str], references: References, model: str = BERTSCORE_MODEL
) -> float:
    """Return the mean F1 of BERTScore (Zhang et al. 2020), without idf or rescaling.

    Of several references the nearest counts.

    Raises:
        UserError: the package or the model is missing.
    """
    package = _package("bert_score", "BERTScore")
    try:
        _, _, f1 = package.score(
            list(hypotheses),
            list(references),
            model_type=model,
            lang="en",
            idf=False,
            rescale_with_baseline=False,
        )
    except KeyError as error:
        raise UserError(
            f"BERTScore does not know the model {model!r}, so not which of its layers to use; "
            f"give one that bert-score lists, for example {BERTSCORE_MODEL}"
        ) from error
    except OSError as error:
        raise UserError(_no_model("BERTScore", model, error)) from error
    return float(np.asarray(f1, dtype=np.float64).mean())


def mauve(hypotheses: Sequence[str], references: References, model: str = MAUVE_MODEL) -> float:
    """Return MAUVE (Pillutla et al. 2021) between the hypotheses and all references, as two sets.

    Raises:
        UserError: the package or the model is missing.
    """
    package = _package("mauve", "MAUVE")
    try:
        result = package.compute_mauve(
            p_text=[text for group in reference_groups(references) for text in group],
            q_text=list(hypotheses),
            featurize_model_name=model,
            verbose=False,
        )
    except OSError as error:
        raise UserError(_no_model("MAUVE", model, error)) from error
    return float(result.mauve)


def _package(name: str, metric: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{metric} needs a package that is not installed ({error}); "
            'install it with: pip install "diffusion-jax[eval]"'
        ) from error


def _no_model(metric: str, model: str, error: Exception) -> str:
    reason = str(error).partition("\n")[0]
    return f"{metric} cannot load the model {model!r}: {reason}; it must be on disk or online"
