"""The one training step: pure, and the same on a laptop and on a pod."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from diffusion_jax import keys
from diffusion_jax.errors import UserError
from diffusion_jax.timesteps import TimestepSampler
from diffusion_jax.train.optimizer import Optimizer
from diffusion_jax.train.state import TrainState, update_ema
from diffusion_jax.types import Params

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
NUM_QUARTERS = 4
LEVELS = "alpha_bar"
"""Entry of a batch: float32 [B, L], the share of signal variance at every position."""
BY_POSITION = "by_position"
FROZEN = "frozen"
"""Entry of a batch: parameters that the loss uses and nothing learns; the same for all rows."""


class Terms(Protocol):
    """Per-example loss terms, as ``losses.LossTerms``: a NamedTuple of float32 [B] arrays."""

    def total(self) -> jax.Array:
        """Return the sum of the terms [B], which is what training minimises."""
        ...

    def _asdict(self) -> dict[str, jax.Array]: ...


class LossFn(Protocol):
    """Compute the loss of a batch, one number per example and term."""

    def __call__(
        self,
        params: Params,
        key: jax.Array,
        batch: Batch,
        t: jax.Array,
        dropout_key: jax.Array | None,
    ) -> Terms:
        """Map parameters, keys, a batch of B rows and timesteps int32 [B] to terms [B].

        Without a dropout key nothing is dropped.
        """
        ...


TrainStep = Callable[..., tuple[TrainState, Metrics]]
"""(state, batch, root_key, frozen=None) -> (state, metrics), see ``make_train_step``."""


def make_train_step(
    loss_fn: LossFn,
    optimizer: Optimizer,
    timestep_sampler: TimestepSampler,
    *,
    num_timesteps: int,
    num_microbatches: int = 1,
) -> TrainStep:
    """Build the step: timesteps, gradients, optimiser, averages, loss history, metrics.

    Every random number is a function of (root key, purpose, step, microbatch, row), never of the
    number of devices. A step whose loss or gradient is not finite returns the state it was given
    and sets ``metrics["finite"]`` to False.

    Args:
        loss_fn: loss terms of a batch.
        optimizer: see ``make_optimizer``.
        timestep_sampler: draws t and learns from the losses.
        num_timesteps: T, for the split of the loss by quarters of t.
        num_microbatches: pieces that a batch is cut into; their gradients are averaged, so that the
            result does not depend on it (up to rounding, and to the noise drawn).

    Returns:
        A pure function (state, batch, root_key, frozen=None) -> (state, metrics), to be jitted by
        the caller. What is given as ``frozen`` reaches the loss as ``batch[FROZEN]``.

    Raises:
        UserError: when ``num_microbatches`` is out of range, or (while tracing) does not divide the
            batch.
    """
    # Samplers that move the noise of single positions tell it to the loss and learn from it.
    observes = getattr(timestep_sampler, "observe", None)
    levels = getattr(timestep_sampler, "levels", None)
    if num_microbatches < 1:
        raise UserError(f"num_microbatches is {num_microbatches}; it must be at least 1")

    def weighted_loss(
        params: Params, piece: tuple[Batch, jax.Array, jax.Array], key: jax.Array, drop: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        batch, t, weights = piece
        terms = loss_fn(params, key, batch, t, drop)
        total = terms.total()
        named = {**terms._asdict(), "total": total}
        if observes:
            named[BY_POSITION] = getattr(terms, BY_POSITION)
        return jnp.mean(weights * total), named

    def gradients(
        params: Params, pieces: Any, noise_key: jax.Array, dropout_key: jax.Array, frozen: Any
    ) -> tuple[Params, dict[str, jax.Array]]:
        """Average the gradient over the microbatches; the terms come back as [M, B / M]."""

        def one(index: jax.Array | int, piece: Any) -> tuple[Params, dict[str, jax.Array]]:
            noise, drop = (jax.random.fold_in(k, index) for k in (noise_key, dropout_key))
            batch, *drawn = piece
            if frozen is not None:
                batch = {**batch, FROZEN: frozen}
            return jax.grad(weighted_loss, has_aux=True)(params, (batch, *drawn), noise, drop)

        def accumulate(grads: Params, indexed: Any) -> tuple[Params, dict[str, jax.Array]]:
            new, terms = one(*indexed)
            return jax.tree.map(lambda old, g: old + g / num_microbatches, grads, new), terms

        if num_microbatches == 1:
            grads, terms = one(0, jax.tree.map(lambda x: x[0], pieces))
            return grads, jax.tree.map(lambda x: x[None], terms)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(accumulate, zeros, (jnp.arange(num_microbatches), pieces))

    def train_step(
        state: TrainState, batch: Batch, root_key: jax.Array, frozen: Params | None = None
    ) -> tuple[TrainState, Metrics]:
        key = {
            name: keys.stream(root_key, name, state.step)
            for name in ("timesteps", "noise", "dropout")
        }
        batch_size = _batch_size(batch, num_microbatches)
        t, weights = timestep_sampler.sample(key["timesteps"], state.timestep_state, batch_size)
        inputs = dict(batch)
        if levels:
            inputs[LEVELS] = levels(state.timestep_state, t, batch["noise_mask"])
        pieces = jax.tree.map(lambda x: _deal(x, num_microbatches), (inputs, t, weights))
        grads, terms = gradients(state.params, pieces, key["noise"], key["dropout"], frozen)
        terms = {name: _gather(term) for name, term in terms.items()}
        by_position = terms.pop(BY_POSITION, None)

        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(grad_norm) & jnp.all(jnp.isfinite(terms["total"]))

        def learned_timesteps() -> Any:
            learned = timestep_sampler.update(state.timestep_state, t, terms["total"])
            return observes(learned, t, by_position, batch["noise_mask"]) if observes else learned

        def advance() -> TrainState:
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return TrainState(
                step=state.step + 1,
                params=params,
                ema=update_ema(state.ema, params),
                opt_state=opt_state,
                timestep_state=learned_timesteps(),
            )

        # A branch, not a selection between two states: this one works in place, where the other
        # holds a second copy of every array and passes over all of them again.
        kept = jax.lax.cond(finite, advance, lambda: state)
        metrics = {
            **{name: jnp.mean(term) for name, term in terms.items()},
            "weighted_total": jnp.mean(weights * terms["total"]),
            **_by_quarter(terms["total"], t, num_timesteps),
            "grad_norm": grad_norm,
            "param_norm": optax.tree.norm(kept.params),
            "learning_rate": optimizer.learning_rate(state.step),
            "finite": finite,
        }
        return kept, metrics

    return train_step


def _batch_size(batch: Batch, num_microbatches: int) -> int:
    sizes = {name: x.shape[0] for name, x in batch.items()}
    size = next(iter(sizes.values()))
    if set(sizes.values()) != {size}:
        raise ValueError(f"the arrays of a batch differ in their number of rows: {sizes}")
    if size % num_microbatches:
        raise UserError(
            f"the batch of {size} rows does not divide into {num_microbatches} microbatches; "
            f"change one of the two"
        )
    return size


def _deal(x: jax.Array, num_hands: int) -> jax.Array:
    """Deal rows like cards, [B, ...] -> [M, B / M, ...].

    Rows that lie on one device stay there; cutting the batch into blocks would move them.
    """
    return jnp.swapaxes(x.reshape(-1, num_hands, *x.shape[1:]), 0, 1)


def _gather(x: jax.Array) -> jax.Array:
    """Undo ``_deal``: [M, B / M, ...] -> [B, ...] in the order of the batch."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def _by_quarter(total: jax.Array, t: jax.Array, num_timesteps: int) -> Metrics:
    """Sum the loss over each quarter of [0, T) and count the examples that fell into it.

    Sums and counts, unlike means, can be added up over steps before dividing.
    """
    quarter = NUM_QUARTERS * t // num_timesteps
    inside = quarter[:, None] == jnp.arange(NUM_QUARTERS)[None, :]
    sums = jnp.sum(jnp.where(inside, total[:, None], 0.0), axis=0)
    counts = jnp.sum(inside, axis=0)
    return {
        **{f"total_q{q}_sum": sums[q] for q in range(NUM_QUARTERS)},
        **{f"total_q{q}_count": counts[q] for q in range(NUM_QUARTERS)},
    }
