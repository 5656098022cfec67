"""The variational bound of a trained model over the rows of a corpus."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.likelihood import (
    LikelihoodSummary,
    LikelihoodTerms,
    Variance,
    likelihood_bound,
    summarize,
)
from diffusion_jax.program import Program
from diffusion_jax.text.loader import filled_batches
from diffusion_jax.text.store import TokenStore
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.types import Params


def corpus_bound(
    program: Program,
    params: Params,
    store: TokenStore,
    tokenizer: Tokenizer,
    *,
    num_rows: int = 256,
    num_timesteps: int = 50,
    variance: Variance = "matched",
    clamp: bool = False,
    batch_size: int = 64,
    seed: int = 0,
) -> LikelihoodSummary:
    """Estimate the bound over the first rows of a store, in nats.

    Nats are summed over all generated positions (START and padding too, which the model writes like
    words). A model with a length head is given the padding; the surprise of its length is added to
    the rounding term. Tokens, the divisor, are the words and END.

    The sum goes over all timesteps. A model that was trained with clipped noise never learned the
    least noisy ones, which makes its bound loose, and no statement about what it writes.

    Args:
        program: of the trained configuration.
        params: parameters of the denoiser.
        store: packed rows; of pairs, the bound is that of the target given the source.
        tokenizer: for the ids of START and PAD.
        num_rows: how many rows, at most.
        num_timesteps: stratified timesteps per row, out of T; more make the estimate less noisy.
        variance: which bound, see ``evaluate.likelihood``.
        clamp: bound the model that rounds its estimates to embeddings, as sampling with the
            clamping trick does and as the published script does by default.
        batch_size: rows per compiled call.
        seed: of timesteps and noise.

    Raises:
        UserError: fewer than two rows, or a number out of range.
    """
    if program.timestep_sampler.schedule is not None:
        raise UserError(
            "the bound needs one noise level for all positions; this run has adaptive schedules of "
            "the positions (diffusion.position_schedule)"
        )
    if num_rows < 2 or batch_size < 1:
        raise UserError(f"num_rows={num_rows} and batch_size={batch_size} must be at least 2 and 1")
    num_rows = min(num_rows, len(store))
    if num_rows < 2:
        raise UserError("the corpus has 1 row; an error of the bound needs at least 2")
    bound = jax.jit(
        partial(
            _batch_bound,
            program=program,
            tokenizer=tokenizer,
            num_timesteps=min(num_timesteps, program.schedule.num_timesteps),
            variance=variance,
            clamp=clamp,
        )
    )
    parts = []
    for index in filled_batches(num_rows, batch_size):
        rows = store.rows(index)
        key = jax.random.fold_in(jax.random.key(seed), int(index[0]))
        parts.append(bound(key, params, rows["input_ids"], rows["noise_mask"]))
    # Without what fills up the last batch.
    return summarize(jax.tree.map(lambda *arrays: np.concatenate(arrays)[:num_rows], *parts))


def _batch_bound(
    key: jax.Array,
    params: Params,
    input_ids: jax.Array,
    noise_mask: jax.Array,
    *,
    program: Program,
    tokenizer: Tokenizer,
    num_timesteps: int,
    variance: Variance,
    clamp: bool,
) -> LikelihoodTerms:
    silent = jnp.asarray([tokenizer.start_id, tokenizer.pad_id])
    predict_length = program.model.predict_length
    generated = noise_mask
    if predict_length is not None:
        generated = noise_mask & (input_ids != tokenizer.pad_id)
    terms = likelihood_bound(
        key,
        program.model,
        params,
        program.schedule,
        input_ids,
        token_mask=~jnp.isin(input_ids, silent),
        noise_mask=generated,
        num_timesteps=num_timesteps,
        variance=variance,
        clamp=clamp,
        mean_embed=params.get("mean_embed"),
    )
    if predict_length is None:
        return terms
    # A text is its length, told by the head, and then its words.
    log_probs = predict_length(params, input_ids, noise_mask)
    length = jnp.sum(generated, axis=-1)
    length_nll = -jnp.take_along_axis(log_probs, length[:, None], axis=-1)[:, 0]
    return terms._replace(rounding_nll=terms.rounding_nll + length_nll)
