"""Run directories out of checkpoints that were not trained here."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.config import ExperimentConfig
from diffusion_jax.errors import UserError
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.train.state import TrainState
from diffusion_jax.types import Params
from diffusion_jax.workdir import Workdir


def write_run(
    workdir: Workdir,
    config: ExperimentConfig,
    tokenizer: Tokenizer,
    params: Params,
    *,
    step: int,
    record: Mapping[str, Any],
) -> None:
    """Write a run directory that can be sampled from; it has no optimiser state to train on with.

    Args:
        workdir: new or empty directory.
        config: complete, with ``train.ema_rates`` empty: there is one set of parameters.
        tokenizer: of the same vocabulary as the model.
        params: arrays or what becomes arrays; stored as float32.
        step: updates made; the number of the checkpoint.
        record: where the parameters come from, as JSON values, kept with the checkpoint.

    Raises:
        UserError: the directory is in use, or tokenizer and model do not fit.
    """
    _check_fits(config, tokenizer)
    workdir.create(config, tokenizer)
    state = TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), params),
        ema={},
        opt_state=(),
        timestep_state=(),
    )
    with workdir.checkpoints() as store:
        store.save(step, state, {"tokenizer": tokenizer.fingerprint(), **record})


def _check_fits(config: ExperimentConfig, tokenizer: Tokenizer) -> None:
    """Raise UserError where the vocabulary or the row length does not fit the network."""
    model = config.model
    if tokenizer.vocab_size != model.vocab_size:
        raise UserError(
            f"the vocabulary has {tokenizer.vocab_size} tokens, but the checkpoint has embeddings "
            f"for {model.vocab_size}; give the vocabulary that it was trained with"
        )
    if config.data.length > model.max_length:
        raise UserError(
            f"length is {config.data.length}, but the checkpoint has {model.max_length} positions; "
            "give a smaller length"
        )
