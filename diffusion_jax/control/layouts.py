"""How a target's template is laid out: which numbers of tokens its holes are tried with."""

from collections import Counter
from dataclasses import dataclass
from itertools import chain

from diffusion_jax.control.wishes import Plan, keyword_ids
from diffusion_jax.errors import UserError
from diffusion_jax.text.control_targets import MASK, Target
from diffusion_jax.text.templates import layouts, parse_template, text_lengths
from diffusion_jax.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Holes:
    """Which layouts of a template are tried.

    Attributes:
        mask: what marks a hole.
        min_hole: fewest tokens of a hole.
        max_hole: most tokens of a hole.
        limit: no more layouts than this, spread evenly over all that fit.
        screen: texts for each layout before the samples; the samples then go to the layouts in
            proportion to exp(4 x the best model score among these).
    """

    mask: str = MASK
    min_hole: int = 1
    max_hole: int = 6
    limit: int = 64
    screen: int = 1


def lay_out(target: Target, holes: Holes, tokenizer: Tokenizer, max_tokens: int) -> list[Plan]:
    """Return one plan for each layout of the target's template (one plan without any).

    A layout that has no room for the keywords beside the given words, or ends before a span does,
    is left out.

    Args:
        target: what is asked.
        holes: which layouts are tried.
        tokenizer: of the model.
        max_tokens: the most tokens that the model writes.

    Raises:
        UserError: a template that cannot be read, or none of its layouts will do.
    """
    if target.keep is None:
        return [Plan(target)]
    template = parse_template(target.keep, tokenizer, holes.mask)
    num_tokens = target.fixed_length()
    bounds = {"min_hole": holes.min_hole, "max_hole": holes.max_hole, "num_tokens": num_tokens}
    most = text_lengths(template, max_tokens, **bounds)[-1]
    given = Counter(chain.from_iterable(template.segments))
    missing = (Counter(keyword_ids(target, tokenizer)) - given).total()
    if template.num_words + missing > most:
        raise UserError(
            f"contradictory controls: the keywords are {missing} tokens beside the given words, "
            f"and the template has room for {most - template.num_words}; give it more (--max-hole, "
            f"--length; this model writes up to {max_tokens})"
        )
    start, end, label = max(target.spans, key=lambda span: span[1], default=(0, -1, ""))
    if end >= most:
        raise UserError(
            f"span {start}:{end}={label} is not inside the text, which has at most {most} tokens "
            "with this template; raise --max-hole"
        )
    fewest = max(template.num_words + missing, end + 1)
    found = layouts(template, max_tokens, **bounds, min_tokens=fewest, limit=holes.limit)
    return [Plan(target, template, layout) for layout in found]
