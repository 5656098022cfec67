"""The training loss on rows that are never learned from."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.train.step import FROZEN, LossFn
from diffusion_jax.types import Params

# The golden ratio's fractional part times 2^32; products wrap around, as fractions do.
_GOLDEN = np.uint32(2_654_435_769)


class EvalBatches(Protocol):
    """Numbered batches with a weight per row, as ``text.loader.EvalLoader``."""

    def __len__(self) -> int: ...

    def batch_at(self, index: int) -> dict[str, np.ndarray]:
        """Return the arrays of batch ``index``, among them ``weight`` [B]."""
        ...


def make_validation(
    loss_fn: LossFn,
    batches: EvalBatches,
    *,
    num_timesteps: int,
    place: Callable[[Mapping[str, Any]], Mapping[str, jax.Array]],
    seed: int = 0,
    frozen: Params | None = None,
) -> Callable[[Params], dict[str, float]]:
    """Return a function params -> mean of every loss term over all rows, without dropout.

    Timesteps and noise depend on the seed, the batch and the row alone, so two calls differ in the
    parameters only. Row n looks at the timestep at ``frac(n * golden ratio + shift)`` of T: any
    stretch of rows is spread evenly, whatever the batch size, and whatever fills the last batch up.
    """

    @jax.jit
    def weighted_sums(
        params: Params, batch: Any, root: jax.Array, index: jax.Array, frozen: Params | None
    ) -> dict[str, jax.Array]:
        weight = batch["weight"]
        rows = weight.shape[0]
        time_key, noise_key = jax.random.split(root)
        noise_key = jax.random.fold_in(noise_key, index)
        number = index * rows + jnp.arange(rows, dtype=jnp.uint32)
        spread = number * _GOLDEN + jax.random.bits(time_key)
        t = (spread.astype(jnp.float32) / 2.0**32 * num_timesteps).astype(jnp.int32)
        t = jnp.minimum(t, num_timesteps - 1)
        inputs = {name: array for name, array in batch.items() if name != "weight"}
        if frozen is not None:
            inputs[FROZEN] = frozen
        terms = loss_fn(params, noise_key, inputs, t, None)
        named = {**terms._asdict(), "total": terms.total()}
        return {"rows": jnp.sum(weight)} | {k: jnp.sum(weight * v) for k, v in named.items()}

    def validate(params: Params) -> dict[str, float]:
        sums: dict[str, float] = {}
        for index in range(len(batches)):
            batch = place(batches.batch_at(index))
            root = jax.random.key(seed)
            sums_of_batch = weighted_sums(params, batch, root, np.uint32(index), frozen)
            found = jax.device_get(sums_of_batch)
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in found.items()}
        return {name: value / sums["rows"] for name, value in sums.items() if name != "rows"}

    return validate
