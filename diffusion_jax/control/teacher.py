"""The autoregressive Transformer beside control: judge of fluency, baseline with control tokens."""

from collections.abc import Sequence
from pathlib import Path

from diffusion_jax.autoregressive_run import TrainedAutoregressive
from diffusion_jax.control.measure import Fluency, Writer
from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.text_scores import summarise
from diffusion_jax.text.control_targets import Target
from diffusion_jax.text.example import Example
from diffusion_jax.text.prefixes import control_text

_TASKS = {"attributes": "attribute", "pos": "pos", "tree": "tree", "length": "length"}


def load_fluency(path: str | Path) -> Fluency:
    """Return nats per token under a teacher that ``train-ar`` wrote.

    Raises:
        UserError: there is none, or it was trained on texts after sources or controls.
    """
    teacher = TrainedAutoregressive.load(path)
    if teacher.config.paired:
        raise UserError(
            f"the model in {path} writes after sources or controls; a teacher learns texts alone"
        )
    # A text that fills its row never ended, and has no place for an END here either.
    return lambda texts: summarise(teacher.score(texts, truncate=True)).nats_per_token


def load_writer(path: str | Path) -> Writer:
    """Return the baseline that ``train-ar --prefix`` wrote: told the control, it samples.

    Raises:
        UserError: it was trained without a control before its texts.
    """
    model = TrainedAutoregressive.load(path)
    prefix = model.config.prefix
    if prefix not in _TASKS:
        raise UserError(
            f"the model in {path} was not trained with controls; use train-ar --prefix "
            f"{'|'.join(_TASKS)}"
        )

    def write(targets: Sequence[Target], num_samples: int, seed: int) -> list[list[str]]:
        sources = [control_text(_labels(t), prefix, "targets") for t in targets]
        repeated = [source for source in sources for _ in range(num_samples)]
        texts = model.generate(repeated, temperature=1.0, seed=seed)
        return [texts[i : i + num_samples] for i in range(0, len(texts), num_samples)]

    return Writer("autoregressive, control tokens", _TASKS[prefix], write, model.params)


def _labels(target: Target) -> Example:
    """Return the target as a labelled text, of which only the labels are looked at."""
    fields = {"attributes": dict(target.attributes), "pos": target.pos, "tree": target.tree}
    # The length is read off the text.
    words = " ".join(["x"] * (target.length or 0))
    return Example(text=words, fields=fields, id="target")
