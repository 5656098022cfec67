"""Objectives that need no classifier: given words, a length, words that must appear.

Each reads the words off a *posterior* over tokens at every position. There are two: the latent's
own (``latent_posterior``: Bayes' rule in the embedding space, cheap) and that of the denoiser's
estimate (``estimate_posterior``: the gradient flows through the network). Both are a rounding head
on vectors, so no [B, L, V] array is held.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer

from diffusion_jax.errors import UserError
from diffusion_jax.guidance.base import Objective, estimate
from diffusion_jax.rounding import token_nll
from diffusion_jax.types import DenoiseFn, RoundingHead, StepInfo, StepOutput, check_shape

TokenPosterior = Callable[[jax.Array, StepInfo, StepOutput], tuple[RoundingHead, jax.Array]]
"""(x, info, output) -> (head, vectors [B, L, E]): log p(token) is their log-softmax."""

# Clean data has no noise; at this variance the nearest embedding already has all the mass.
_MIN_VARIANCE = 1e-4


def latent_posterior(embedding: jax.Array) -> TokenPosterior:
    """Return p(token | its own noisy vector), all tokens being equally likely beforehand.

    ``q(x | token v) = N(sqrt(alpha_bar) e_v, 1 - alpha_bar)`` at the level of the state, so the
    posterior is a softmax of logits that are linear in x.

    Args:
        embedding: float32 [V, E].
    """

    def posterior(x: jax.Array, info: StepInfo, output: StepOutput):
        variance = jnp.maximum(info.one_minus_alpha_bar_prev, _MIN_VARIANCE)
        weight = embedding * (jnp.sqrt(info.alpha_bar_prev) / variance)
        square = jnp.sum(jnp.square(embedding), axis=-1)
        bias = square * (-0.5 * info.alpha_bar_prev / variance)
        return RoundingHead(weight, bias), x

    return posterior


def estimate_posterior(
    head: RoundingHead, denoise: DenoiseFn, *, self_condition: bool = False
) -> TokenPosterior:
    """Return p(token) at the denoiser's estimate of ``x_start``; gradients flow through it.

    Args:
        head: the model's rounding head.
        denoise: the network of the chain.
        self_condition: give the network the estimate that the step used (after clamping).
    """

    def posterior(x: jax.Array, info: StepInfo, output: StepOutput):
        return head, estimate(x, info.time_prev, output, denoise, self_condition)

    return posterior


def fixed_words(
    posterior: TokenPosterior, input_ids: jax.Array, known_mask: jax.Array
) -> Objective:
    """Return the log-probability of the given words: infilling by gradient.

    Args:
        posterior: where tokens are read off.
        input_ids: int32 [B, L].
        known_mask: bool [B, L], True where ``input_ids`` is wanted; the rest is free.
    """
    check_shape("known_mask", known_mask, input_ids.shape)

    def objective(x: jax.Array, info: StepInfo, output: StepOutput) -> jax.Array:
        head, vectors = posterior(x, info, output)
        nll = token_nll(head, vectors, input_ids)
        return -jnp.sum(jnp.where(known_mask, nll, 0.0), axis=-1)

    return objective


def fixed_length(
    posterior: TokenPosterior, lengths: jax.Array, *, seq_len: int, end_id: int, pad_id: int
) -> Objective:
    """Return the log-probability that a row ends where it should.

    Args:
        posterior: where tokens are read off.
        lengths: int [B], tokens of each row from START to END, both counted.
        seq_len: L.
        end_id: the token END, wanted at position ``length - 1``.
        pad_id: the token PAD, wanted at every position after it.

    Raises:
        UserError: a length that does not fit.
    """
    input_ids, known_mask = _length_template(lengths, seq_len, end_id, pad_id)
    return fixed_words(posterior, input_ids, known_mask)


def keywords(posterior: TokenPosterior, word_ids: jax.Array) -> Objective:
    """Return the log-probability that every word appears, wherever that is.

    A word's score is the log of its probability summed over positions, a soft maximum: the
    gradient goes to the positions that are closest to the word, and ends when one of them is it.

    Args:
        posterior: where tokens are read off.
        word_ids: int32 [B, W], W words for each row; -1 asks for nothing, so that rows may want
            different numbers of words.
    """
    if word_ids.ndim != 2:
        raise UserError(f"word_ids has shape {word_ids.shape}; use [B, W], W words for each row")

    def objective(x: jax.Array, info: StepInfo, output: StepOutput) -> jax.Array:
        head, vectors = posterior(x, info, output)

        def appears(ids: jax.Array) -> jax.Array:
            everywhere = jnp.broadcast_to(jnp.maximum(ids, 0)[:, None], vectors.shape[:2])
            found = jax.nn.logsumexp(-token_nll(head, vectors, everywhere), axis=-1)
            return jnp.where(ids < 0, 0.0, found)

        return jnp.sum(jax.lax.map(appears, word_ids.T), axis=0)

    return objective


def fixed_embeddings(
    denoise: DenoiseFn,
    x_start: jax.Array,
    known_mask: jax.Array,
    *,
    self_condition: bool = False,
) -> Objective:
    """Return ``-sum((pred_x_start - x_start)^2) / sigma`` over the known positions.

    This is the published objective for lengths (START and END known) and for words, through the
    denoiser. As published, the network is told the time before the step, and 1 replaces a sigma
    of 0.

    Args:
        denoise: the network of the chain.
        x_start: float32 [B, L, E], the embeddings that are wanted.
        known_mask: bool [B, L], True where they are wanted.
        self_condition: give the network the estimate that the step used (after clamping).
    """
    check_shape("known_mask", known_mask, x_start.shape[:2])

    def objective(x: jax.Array, info: StepInfo, output: StepOutput) -> jax.Array:
        pred_x_start = estimate(x, info.time, output, denoise, self_condition)
        square = jnp.sum(jnp.square(pred_x_start - x_start), axis=-1)
        distance = jnp.sum(jnp.where(known_mask, square, 0.0), axis=-1)
        sigma = jnp.mean(jnp.asarray(output.sigma))
        return -distance / jnp.where(sigma == 0, 1.0, sigma)

    return objective


def _length_template(
    lengths: jax.Array, seq_len: int, end_id: int, pad_id: int
) -> tuple[jax.Array, jax.Array]:
    """Return ids [B, L] with END and PAD in place, and the mask [B, L] of those positions."""
    lengths = jnp.asarray(lengths)
    check_shape("lengths", lengths, (None,))
    if not isinstance(lengths, Tracer):
        shortest, longest = int(lengths.min()), int(lengths.max())
        if shortest < 2 or longest > seq_len:
            raise UserError(
                f"lengths from {shortest} to {longest} are not allowed; use 2 (START and END) "
                f"to {seq_len}, the length of a row"
            )
    positions = jnp.arange(seq_len)[None, :]
    last = lengths[:, None] - 1
    return jnp.where(positions == last, end_id, pad_id), positions >= last
