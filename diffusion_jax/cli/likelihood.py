"""``diffusion-jax likelihood``: the variational bound of a trained model on a corpus."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from diffusion_jax.cli.options import check_output, output_stream, parse
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class LikelihoodCommand:
    """Bound the negative log-likelihood of a corpus under a trained model, in nats per token.

    Beside the bound stands "word_recovery": the share of words that the network gives back from
    very little noise, and the words to which it is blind (--diffusion.snr-weight mends that in
    training).

    Example: diffusion-jax likelihood runs/e2e --corpus src1_valid.txt

    Attributes:
        checkpoint: the --workdir of a training run.
        corpus: what to measure; default the run's own validation corpus.
        rows: how many rows of it, at most.
        timesteps: timesteps per row, out of the training timesteps; more are less noisy. Default
            50.
        variance: "matched" is the bound; "fixed_small" and "fixed_large" repeat the published
            computation, for comparison with published bits per dimension.
        clamp: bound the model that rounds its estimates to embeddings, as sampling with the
            clamping trick does and as the published script does by default.
        batch_size: rows per compiled call.
        seed: of timesteps and noise.
        weights: "ema", "ema RATE" or "params" (not averaged).
        output: where the JSON goes; "-" is standard output.
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    corpus: str | None = None
    rows: int = 256
    timesteps: int | None = None
    variance: Literal["matched", "fixed_small", "fixed_large"] = "matched"
    clamp: bool = False
    batch_size: int = 64
    seed: int = 0
    weights: str = "ema"
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "-"


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command = parse(LikelihoodCommand, "likelihood", arguments)
    check_output(command.output)
    from diffusion_jax.evaluate.blind_words import word_recovery
    from diffusion_jax.evaluate.corpus_bound import corpus_bound
    from diffusion_jax.experiment import open_validation
    from diffusion_jax.generate import check_batch_and_seed
    from diffusion_jax.program import Program
    from diffusion_jax.workdir import Workdir

    directory = Workdir(command.checkpoint)
    config = directory.read_config()
    if command.corpus is not None:
        named = {"validation": command.corpus, "validation_size": command.rows}
        config = replace(config, data=replace(config.data, **named))
    most = config.diffusion.timesteps
    timesteps = min(50, most) if command.timesteps is None else command.timesteps
    if not 1 <= timesteps <= most:
        raise UserError(f"--timesteps {timesteps}: the run has {most}; give 1 to {most}")
    check_batch_and_seed(command.batch_size, command.seed)
    tokenizer = directory.read_tokenizer()
    store = open_validation(config, tokenizer)
    if store is None:
        raise UserError("the run has no validation corpus; name one with --corpus")
    measured = (
        Program.build(config),
        directory.read_params(config, weights=command.weights),
        store,
        tokenizer,
    )
    options = {"num_rows": command.rows, "batch_size": command.batch_size, "seed": command.seed}
    summary = corpus_bound(
        *measured,
        num_timesteps=timesteps,
        variance=command.variance,
        clamp=command.clamp,
        **options,
    )
    recovery = word_recovery(*measured, **options)
    result = {**summary._asdict(), "word_recovery": recovery._asdict()}
    with output_stream(command.output) as stream:
        print(json.dumps(result, indent=2), file=stream)
    return 0
