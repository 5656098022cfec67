"""Which metrics are computed on which form of the texts.

``standard``: corpus BLEU and chrF of sacrebleu (0 to 100), ROUGE-L, distinct n-grams, exact match;
texts end at the first [SEP], and special tokens and double blanks are removed. Self-BLEU is
sacrebleu's sentence BLEU (0 to 100) over all pairs, both ways.

``diffuseq``: what DiffuSeq's evaluation computes, digit by digit, for comparison with its tables
(0 to 1): mean sentence BLEU of NLTK (smoothing method 4 of its releases 3.7 to 3.10), ROUGE-L in
float32. It removes special tokens but keeps what follows the first [SEP] and the blanks around
the tokens; its length counts the gaps between single blanks, so that "[CLS] a b [SEP]" has 4.
The published program scores against references that its tokenizer has encoded and decoded (lower
case, its own spacing, cut to the row), not against the corpus as it is written: give
``evaluate_texts`` the model's tokenizer, or no writer in lower case comes near its numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from diffusion_jax.evaluate.diversity import distinct_n, div_n, mean_length, self_bleu
from diffusion_jax.evaluate.overlap import (
    References,
    corpus_bleu,
    corpus_chrf,
    exact_match,
    mean_sentence_utility,
    reference_columns,
    reference_groups,
    rouge_l,
)
from diffusion_jax.mbr import RULES, Rule

TextMetric = Callable[[Sequence[str], References], float]
SetMetric = Callable[[Sequence[Sequence[str]]], float]


@dataclass(frozen=True)
class Preset:
    """A way to evaluate.

    Attributes:
        clean_hypothesis: applied to each hypothesis first.
        clean_given: applied to each reference and source first.
        metrics: name to a function of hypotheses [S] and references [S], one or several each.
        set_metrics: name to a function of candidates [S][C], for C >= 2.
        mbr: how a candidate is chosen.
        signatures: references [S] to: name of a metric to what must be said with its number.
    """

    clean_hypothesis: Callable[[str], str]
    clean_given: Callable[[str], str]
    metrics: Mapping[str, TextMetric]
    set_metrics: Mapping[str, SetMetric]
    mbr: Rule
    signatures: Callable[[References], dict[str, str]]


def _clean_standard(text: str) -> str:
    kept = text.partition("[SEP]")[0]
    return " ".join(kept.replace("[CLS]", " ").replace("[PAD]", " ").split())


def _clean_diffuseq_given(text: str) -> str:
    return text.strip().replace("[CLS]", "").replace("[SEP]", "")


def _clean_diffuseq_hypothesis(text: str) -> str:
    return _clean_diffuseq_given(text).replace("[PAD]", "")


def _diffuseq_length(texts: Sequence[str]) -> float:
    return float(np.mean([text.count(" ") + 1 for text in texts]))


def _of_hypotheses(metric: Callable[[Sequence[str]], float]) -> TextMetric:
    return lambda hypotheses, _: metric(hypotheses)


def _standard_signatures(references: References) -> dict[str, str]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu, chrf, sentence = BLEU(), CHRF(), BLEU(effective_order=True)
    # A signature knows the number of references only after a score.
    columns = reference_columns([["a"] * len(group) for group in reference_groups(references)])
    for metric in (bleu, chrf):
        metric.corpus_score(columns[0], columns)
    sentence.corpus_score(["a"], [["a"]])
    return {
        "bleu": str(bleu.get_signature()),
        "chrf": str(chrf.get_signature()),
        "self_bleu": f"sentence BLEU, all ordered pairs, {sentence.get_signature()}",
    }


def _diffuseq_signatures(_: References) -> dict[str, str]:
    bleu = "mean sentence BLEU, NLTK 3.7 to 3.10, smoothing method 4, tokens between blanks"
    return {"bleu": bleu, "self_bleu": f"{bleu}, candidate i against j for i < j"}


PRESETS = {
    "standard": Preset(
        clean_hypothesis=_clean_standard,
        clean_given=_clean_standard,
        metrics={
            "bleu": corpus_bleu,
            "chrf": corpus_chrf,
            "rouge_l": rouge_l,
            "exact_match": exact_match,
            "dist_1": _of_hypotheses(partial(distinct_n, n=1)),
            "dist_2": _of_hypotheses(partial(distinct_n, n=2)),
            "length": _of_hypotheses(mean_length),
        },
        set_metrics={"self_bleu": partial(self_bleu, utility="sacrebleu"), "div_4": div_n},
        mbr=RULES["standard"],
        signatures=_standard_signatures,
    ),
    "diffuseq": Preset(
        clean_hypothesis=_clean_diffuseq_hypothesis,
        clean_given=_clean_diffuseq_given,
        metrics={
            "bleu": partial(mean_sentence_utility, utility="nltk_bleu"),
            "rouge_l": partial(rouge_l, dtype=np.float32),
            "dist_1": _of_hypotheses(partial(distinct_n, n=1)),
            "length": _of_hypotheses(_diffuseq_length),
        },
        set_metrics={
            "self_bleu": partial(self_bleu, utility="nltk_bleu", both_ways=False),
            "div_4": div_n,
        },
        mbr=RULES["diffuseq"],
        signatures=_diffuseq_signatures,
    ),
}
