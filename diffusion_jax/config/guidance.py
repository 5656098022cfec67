"""How a chain is steered."""

from dataclasses import dataclass
from typing import Literal

from diffusion_jax.config.checks import require
from diffusion_jax.fields import check_fields

Way = Literal["anchor", "gradient"]

_IGNORED = {
    "auto": ("through",),
    "adagrad": ("scale",),
    "gradient": ("learning_rate", "updates", "fluency_weight", "reset", "noise"),
}


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """How a chain is steered toward what is asked (Li et al. 2022, section 5).

    Every objective is a mean, nats per wanted attribute, tag, chart cell or word; but where "auto"
    goes by "gradient", it is their sum.

    Attributes:
        method: "adagrad" (K updates of every state, with a fluency term), "gradient" (one shift of
            the step's mean by its variance, Dhariwal and Nichol 2021), or "auto", what was measured
            best: attributes, keywords, and whatever has a classifier of estimates, by "gradient"
            through the denoiser, all else by "adagrad" at the noisy state.
        learning_rate: Adagrad's step size. Published: 0.05 to 0.2.
        updates: K, Adagrad updates per diffusion step; 0 is no update. Published: 3.
        fluency_weight: pull toward the step's mean. Published: 0.01 for attributes and lengths,
            1e-4 for parts of speech, 5e-4 for trees, 0.1 for spans.
        reset: when Adagrad's accumulator starts again: every "update" (the published program),
            every diffusion "step" (the paper), or "never".
        scale: factor of the gradient of "gradient". The posterior is aimed at by 1 where the
            objective is a sum, and by the number of things that are wanted where it is a mean; more
            sharpens it.
        lowest: least noisy share of the schedule that is guided, in [0, 1). Published: 0.05.
        highest: most noisy share that is guided, in (0, 1].
        noise: Langevin noise after every update, in units of the step's sigma.
        through: differentiate "classifier" (at the noisy state, as published) or "denoiser" (at
            the estimate of x_start, through the network); "auto" has its own answer.
        length_by: put END and padding in place ("anchor") or climb their probability ("gradient").
        keep_by: the same for the words of a template.
        attribute_weight: weight of attributes.
        pos_weight: weight of parts of speech.
        tree_weight: weight of a whole tree.
        span_weight: weight of single spans.
        word_weight: weight of given words and of the length, where they go by gradient.
        keyword_weight: weight of keywords.
    """

    method: Literal["auto", "adagrad", "gradient"] = "auto"
    learning_rate: float = 0.1
    updates: int = 3
    fluency_weight: float = 5e-4
    reset: Literal["update", "step", "never"] = "update"
    scale: float = 10.0
    lowest: float = 0.05
    highest: float = 1.0
    noise: float = 0.0
    through: Literal["classifier", "denoiser"] = "classifier"
    length_by: Way = "anchor"
    keep_by: Way = "anchor"
    attribute_weight: float = 1.0
    pos_weight: float = 1.0
    tree_weight: float = 1.0
    span_weight: float = 1.0
    word_weight: float = 1.0
    keyword_weight: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges, and refuse options that the chosen method would ignore."""
        check_fields(self)
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(self.updates >= 0, "updates", self.updates, "0 (off) or more")
        for name in ("fluency_weight", "noise", "scale"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(0 <= self.lowest < 1, "lowest", self.lowest, "a share from 0 to below 1")
        require(self.lowest < self.highest <= 1, "highest", self.highest, "a share above lowest")
        for name in ("attribute", "pos", "tree", "span", "word", "keyword"):
            value = getattr(self, f"{name}_weight")
            require(value >= 0, f"{name}_weight", value, "0 or more")
        for name in _IGNORED[self.method]:
            same = getattr(self, name) == getattr(type(self), name)
            require(same, name, getattr(self, name), f'nothing with method "{self.method}"')
