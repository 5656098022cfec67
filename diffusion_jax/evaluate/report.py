"""One call from texts to numbers, with everything that is needed to compute them again."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.model_scores import bertscore, mauve
from diffusion_jax.evaluate.overlap import References, exact_match, reference_groups
from diffusion_jax.evaluate.presets import PRESETS, Preset, TextMetric
from diffusion_jax.mbr import mbr_select
from diffusion_jax.mbr.utilities import check_groups
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.version import __version__

Scores = dict[str, float]


@dataclass(frozen=True)
class Report:
    """The numbers of one evaluation.

    Attributes:
        preset: which metrics, on which form of the texts.
        num_sources: S.
        num_candidates: C.
        candidates: C times the scores of the first, second, ... candidate of all sources.
        candidate_set: scores of the C candidates as a set; empty for C = 1.
        mbr: scores of the candidates chosen by minimum Bayes risk, where asked for.
        mbr_choice: index of the chosen candidate of each source, where asked for.
        chosen: scores of the candidates that had been chosen before, where that is known.
        tokenizer: kind and fingerprint of the tokenizer whose spelling references and sources were
            given, where one was.
        signatures: name of a metric to how exactly it was computed.
        versions: name of a package to its version.
    """

    preset: str
    num_sources: int
    num_candidates: int
    candidates: tuple[Scores, ...]
    candidate_set: Scores
    mbr: Scores | None
    mbr_choice: tuple[int, ...] | None
    chosen: Scores | None
    tokenizer: str | None
    signatures: dict[str, str]
    versions: dict[str, str]

    def mean(self) -> Scores:
        """Return the scores averaged over the candidates."""
        return {
            name: float(np.mean([scores[name] for scores in self.candidates]))
            for name in self.candidates[0]
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it, the means included."""
        return {**dataclasses.asdict(self), "mean": self.mean()}


def evaluate_texts(
    hypotheses: Sequence[str] | Sequence[Sequence[str]],
    references: References,
    sources: Sequence[str] | None = None,
    preset: str = "standard",
    *,
    mbr: bool = False,
    chosen: Sequence[str] | None = None,
    tokenizer: Tokenizer | None = None,
    bertscore_model: str | None = None,
    mauve_model: str | None = None,
) -> Report:
    """Score hypotheses against references.

    Args:
        hypotheses: one text for each of S sources, or C candidates for each.
        references: one text for each source, or a list of one or more.
        sources: where given, ``source_copy`` is the share of hypotheses that repeat their source.
        preset: "standard" or "diffuseq" (see ``diffusion_jax.evaluate.presets``).
        mbr: also choose among the candidates by the preset's rule, and score the choice.
        chosen: the text of each source that was chosen before, by any rule; scored as well.
        tokenizer: encodes and decodes references and sources first. A model writes as its tokenizer
            spells (an uncased one without capitals), and published numbers are against references
            that were spelled so, too; without it the texts count as they are.
        bertscore_model: name of a model that BERTScore lists; adds ``bertscore``.
        mauve_model: name or directory of a model; adds ``mauve``.

    Returns:
        The report.

    Raises:
        UserError: something is no list of texts, the counts differ, there is nothing to score, a
            source has no reference, or several that the preset does not know, ``mbr`` for a single
            candidate, no such preset, or a package or model is missing.
    """
    if preset not in PRESETS:
        raise UserError(f"no preset is called {preset!r}; there is: {', '.join(PRESETS)}")
    rules = PRESETS[preset]
    _check_texts("hypotheses", hypotheses)
    groups = [[text] if isinstance(text, str) else list(text) for text in hypotheses]
    check_groups(groups)
    _check_texts("references", references)
    _check_count("references", references, groups)
    groups = [[rules.clean_hypothesis(text) for text in group] for group in groups]
    given = _spelling(rules, tokenizer)
    references = _clean_references(references, given)
    metrics = dict(rules.metrics)
    if sources is not None:
        _check_texts("sources", sources, several=False)
        _check_count("sources", sources, groups)
        cleaned = [given(text) for text in sources]
        metrics["source_copy"] = lambda texts, _: exact_match(texts, cleaned)
    metrics |= _model_metrics(bertscore_model, mauve_model)

    def score(texts: Sequence[str]) -> Scores:
        return {name: metric(texts, references) for name, metric in metrics.items()}

    if chosen is not None:
        _check_texts("chosen texts", chosen, several=False)
        _check_count("chosen texts", chosen, groups)
    choice = None
    if mbr:
        rule = rules.mbr
        choice = mbr_select(groups, rule.utility, role=rule.role, ties=rule.ties).tolist()
    return Report(
        preset=preset,
        num_sources=len(groups),
        num_candidates=len(groups[0]),
        candidates=tuple(score(column) for column in zip(*groups)),
        candidate_set=(
            {name: metric(groups) for name, metric in rules.set_metrics.items()}
            if len(groups[0]) > 1
            else {}
        ),
        mbr=score([group[i] for group, i in zip(groups, choice)]) if choice is not None else None,
        mbr_choice=tuple(choice) if choice is not None else None,
        chosen=None if chosen is None else score([rules.clean_hypothesis(t) for t in chosen]),
        tokenizer=None if tokenizer is None else _named(tokenizer),
        signatures=rules.signatures(references) | _model_signatures(bertscore_model, mauve_model),
        versions=_versions(bertscore_model, mauve_model),
    )


def _named(tokenizer: Tokenizer) -> str:
    return f"{tokenizer.kind}, fingerprint {tokenizer.fingerprint()}"


def _spelling(rules: Preset, tokenizer: Tokenizer | None) -> Callable[[str], str]:
    """Return what is done to each reference and source first."""
    if tokenizer is None:
        return rules.clean_given
    # Cleaned before: a special token that is spelled out would be cut into pieces.
    return lambda text: tokenizer.decode(tokenizer.encode(rules.clean_given(text)))


def _clean_references(references: References, clean: Callable[[str], str]) -> References:
    """Return cleaned references; plain texts, where no source has several."""
    cleaned = [[clean(text) for text in g] for g in reference_groups(references)]
    if not all(cleaned):
        raise UserError("a source has an empty list of references; give one or more")
    return [g[0] for g in cleaned] if all(len(g) == 1 for g in cleaned) else cleaned


def _check_texts(what: str, texts: Any, *, several: bool = True) -> None:
    """Raise UserError unless it is a list of texts (or, where ``several``, of lists of them)."""
    if isinstance(texts, str):
        raise UserError(f"{what} must be a list of texts, not one text")
    for index, item in enumerate(texts):
        is_list = several and isinstance(item, Iterable) and not isinstance(item, str)
        for text in item if is_list else (item,):
            if not isinstance(text, str):
                raise UserError(f"{what}: {text!r} of source {index} is no text")


def _check_count(what: str, texts: References, groups: Sequence[Sequence[str]]) -> None:
    if len(texts) != len(groups):
        raise UserError(
            f"there are {len(texts)} {what}, but hypotheses for {len(groups)}; "
            "give exactly one for each"
        )


def _model_metrics(bertscore_model: str | None, mauve_model: str | None) -> dict[str, TextMetric]:
    metrics: dict[str, TextMetric] = {}
    if bertscore_model is not None:
        metrics["bertscore"] = partial(bertscore, model=bertscore_model)
    if mauve_model is not None:
        metrics["mauve"] = partial(mauve, model=mauve_model)
    return metrics


def _model_signatures(bertscore_model: str | None, mauve_model: str | None) -> dict[str, str]:
    models = {"bertscore": bertscore_model, "mauve": mauve_model}
    return {name: f"model {model}" for name, model in models.items() if model is not None}


def _versions(bertscore_model: str | None, mauve_model: str | None) -> dict[str, str]:
    packages = ["numpy", "sacrebleu"]
    if bertscore_model is not None:
        packages += ["bert-score", "transformers", "torch"]
    if mauve_model is not None:
        packages += ["mauve-text", "transformers", "torch"]
    versions = {"diffusion_jax": __version__, "python": platform.python_version()}
    return versions | {name: _installed(name) for name in packages}


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
