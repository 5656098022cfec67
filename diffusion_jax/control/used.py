"""Nothing that was given may be without effect: classifiers, weights, options of guidance."""

from collections.abc import Iterable, Mapping, Sequence

from diffusion_jax.classifier_run import TrainedClassifier
from diffusion_jax.config import GuidanceConfig
from diffusion_jax.control.compose import ways_of
from diffusion_jax.control.wishes import NEEDS
from diffusion_jax.errors import UserError
from diffusion_jax.text.control_targets import Target

_OF_ADAGRAD = ("learning_rate", "updates", "fluency_weight", "reset", "noise")
_OF_ALL = ("method", "through", "lowest", "highest")


def guided_kinds(targets: Iterable[Target], options: GuidanceConfig) -> set[str]:
    """Return the kinds of wishes (``wishes.Wish``) some target has; what is anchored is none."""
    kinds = set()
    for target in targets:
        controls = target.controls()
        kinds |= {NEEDS[control] for control in controls if control in NEEDS}
        kinds |= {"keywords"} & set(controls)
        known = target.fixed_length() is not None
        by = options.keep_by if target.keep is not None else options.length_by
        if by == "gradient" and (known or target.keep is not None):
            kinds.add("words")
    return kinds


def check_all_used(
    options: GuidanceConfig,
    classifiers: Mapping[str, TrainedClassifier],
    targets: Sequence[Target],
    *,
    draws_noise: bool,
) -> None:
    """Raise UserError for a classifier, or an option of guidance, that no target makes use of.

    Args:
        options: how to steer.
        classifiers: task -> classifier.
        targets: all that is asked.
        draws_noise: whether the sampler does, as for ``compose.ways_of``.
    """
    asked = ", ".join(sorted({control for target in targets for control in target.controls()}))
    kinds = guided_kinds(targets, options)
    for task, classifier in classifiers.items():
        if task not in kinds:
            raise UserError(
                f"the classifier in {classifier.path} tells {task}, and nothing that is asked "
                f"needs it ({asked}); leave it out"
            )
    reading = frozenset(task for task, trained in classifiers.items() if trained.reads_estimates)
    methods = {method for method, _ in ways_of(kinds, options, draws_noise, reading)}
    how = f"is steered by {' and '.join(sorted(methods))}" if methods else "is put in place"
    used = {
        **dict.fromkeys(_OF_ADAGRAD, "adagrad" in methods),
        **dict.fromkeys(_OF_ALL, bool(kinds)),
        "scale": "gradient" in methods,
        "length_by": any(t.keep is None and t.fixed_length() is not None for t in targets),
        "keep_by": any(target.keep is not None for target in targets),
        "attribute_weight": "attribute" in kinds,
        "pos_weight": "pos" in kinds,
        "tree_weight": any(target.tree is not None for target in targets),
        "span_weight": any(target.spans and target.tree is None for target in targets),
        "word_weight": "words" in kinds,
        "keyword_weight": "keywords" in kinds,
    }
    for name, has_effect in used.items():
        value = getattr(options, name)
        if value != getattr(GuidanceConfig, name) and not has_effect:
            raise UserError(
                f"--guidance.{name.replace('_', '-')} {value} does nothing for what is asked "
                f"({asked}), which {how}; leave it out"
            )
