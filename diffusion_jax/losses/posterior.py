"""Cross-entropy on token posteriors: the objective of CDCD and a part of Plaid's.

The network's output is read as logits over the vocabulary, and the estimate of ``x_start`` is the
mean embedding under that posterior (Dieleman et al. 2022, arXiv:2211.15089, section 3.2; Gulrajani
and Hashimoto 2023, arXiv:2305.18619, section 4). The words themselves are the target, so that
embeddings have nothing to gain from moving together, and the latent needs no rounding term.

Dimensions: B batch, L length, E embedding width, T timesteps.
"""

from typing import Literal

import jax

from diffusion_jax.forward import sample_x_start
from diffusion_jax.losses.diffusion import TokenNLL, check_source_drop, noised, predict
from diffusion_jax.losses.terms import (
    ByPosition,
    Draws,
    PosteriorTerms,
    mean_over_positions,
    penalty_term,
    prior_term,
    require_choice,
    resolve_draws,
)
from diffusion_jax.models.base import Model
from diffusion_jax.rounding import token_nll
from diffusion_jax.schedules import NoiseSchedule
from diffusion_jax.types import Params, check_shape


def cross_entropy_loss(
    key: jax.Array | None,
    model: Model,
    params: Params,
    schedule: NoiseSchedule,
    input_ids: jax.Array,
    noise_mask: jax.Array,
    t: jax.Array,
    *,
    dropout_key: jax.Array | None = None,
    self_cond_rate: float = 0.0,
    source_drop_rate: float = 0.0,
    positions: Literal["all", "target"] = "all",
    mean_embed: jax.Array | None = None,
    absorb_rate: float = 0.0,
    penalty_weight: float = 0.01,
    token_nll_fn: TokenNLL = token_nll,
    draws: Draws | None = None,
    alpha_bar: jax.Array | None = None,
    by_position: bool = False,
) -> PosteriorTerms | ByPosition:
    """Compute the cross-entropy of the words given the noisy latent, per example.

    Args:
        key: typed key; None where ``draws`` is given.
        model: a denoiser whose read-out is a token posterior; its output goes to the head as it is.
        params: its parameters.
        schedule: the noise schedule.
        input_ids: int32 [B, L].
        noise_mask: bool [B, L], True where a position is noised and generated.
        t: int32 [B], in [0, T).
        dropout_key: typed key; None switches dropout off.
        self_cond_rate: probability that the network also sees the posterior mean of a first pass
            without gradient; drawn once for the batch.
        source_drop_rate: share of examples whose source is hidden, see ``diffusion_loss``.
        positions: average over ``"all"`` positions or over the noised ones (``"target"``).
        mean_embed: float32 [E], the soft absorbing state of DiffuSeq-v2, or None.
        absorb_rate: probability of absorbing a token at full noise; needs ``mean_embed``.
        penalty_weight: weight of the norm of ``mean_embed``; unused without one.
        token_nll_fn: cross-entropy, (head, output [..., E], ids [...]) -> nats [...].
        draws: all random numbers, instead of drawing them with ``key``.
        alpha_bar: noise by position, see ``diffusion_loss``.
        by_position: also return the cross-entropy at every position.

    Returns:
        The terms, each float32 [B]; in a ``ByPosition`` where that is asked for.

    Raises:
        UserError: an unknown choice of positions, or a rate that does not go with it.
    """
    require_choice("positions", positions, ("all", "target"))
    check_source_drop(source_drop_rate, positions)
    check_shape("input_ids", input_ids, (None, None))
    check_shape("noise_mask", noise_mask, input_ids.shape)
    check_shape("t", t, input_ids.shape[:1])

    x_start_mean = model.embed(params, input_ids)
    rates = {
        "absorb_rate": absorb_rate,
        "self_cond_rate": self_cond_rate,
        "source_drop_rate": source_drop_rate,
    }
    draws = resolve_draws(key, draws, schedule, x_start_mean, t, **rates)
    x_start = sample_x_start(None, schedule, x_start_mean, noise=draws.x_start_noise)
    x_t = noised(schedule, x_start, t, noise_mask, mean_embed, draws, alpha_bar)

    def read_x_start(output: jax.Array) -> jax.Array:
        return model.read(params, output)

    output = predict(model, params, schedule, x_t, t, noise_mask, dropout_key, draws, read_x_start)
    counted = noise_mask if positions == "target" else None
    nll = token_nll_fn(model.head(params), output, input_ids)
    terms = PosteriorTerms(
        cross_entropy=mean_over_positions(nll, counted),
        prior=mean_over_positions(prior_term(schedule, x_start), counted),
        penalty=penalty_term(mean_embed, penalty_weight, t),
    )
    return ByPosition(terms, nll) if by_position else terms
