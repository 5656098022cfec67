"""The one loop that runs every reverse chain: a single ``lax.scan`` over a step grid.

Order at every step: denoise -> clamp -> sampler step -> guide -> anchor. Each of these is an
argument, so unconditional generation, sequence to sequence, infilling and control are the same
program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.keys import per_example, stream
from diffusion_jax.samplers.base import Sampler, SamplerState
from diffusion_jax.samplers.transforms import Anchor
from diffusion_jax.types import (
    DenoiseFn,
    Guidance,
    StepInfo,
    StepOutput,
    XStartTransform,
    check_shape,
)

CollectFn = Callable[[StepInfo, StepOutput, jax.Array], Any]
"""(info, output, x) -> pytree, where ``x`` [B, L, E] is the state after the whole step."""


class SampleResult(NamedTuple):
    """What a chain leaves behind.

    Attributes:
        x_start: float32 [B, L, E], the last state.
        collected: what ``collect`` returned, stacked along a new first axis; None without it.
    """

    x_start: jax.Array
    collected: Any


class _Carry(NamedTuple):
    state: SamplerState
    guide_state: Any
    self_cond: jax.Array | None
    collected: Any


def sample(
    key: jax.Array,
    denoise: DenoiseFn,
    sampler: Sampler,
    grid: StepInfo,
    shape: tuple[int, int, int],
    *,
    x_init: jax.Array | None = None,
    clamp: XStartTransform | None = None,
    anchor: Anchor | None = None,
    guidance: Guidance | None = None,
    at_rows: Callable[[StepInfo], StepInfo] | None = None,
    self_condition: bool = False,
    noise_bound: float | None = None,
    noise_scale: float = 1.0,
    noise: jax.Array | None = None,
    collect: CollectFn | None = None,
    collect_every: int = 1,
) -> SampleResult:
    """Run one reverse chain.

    Pure: jit, vmap, differentiate or shard it as a whole. Memory does not grow with the number of
    steps unless ``collect`` asks for a trace.

    Args:
        key: typed key, or one per example [B] (``keys.per_example``). Example b uses its own key
            alone, so a sample does not depend on its neighbours in the batch. A scalar key is
            split by row.
        denoise: the network with its parameters, ``models.base.bind(model, params)``.
        sampler: ``ddpm()``, ``ddim()``, ``dpm_solver()``, ...
        grid: the steps, from ``step_grid``, or ``singlestep_grid`` for singlestep solvers. Every
            step is one call of the network.
        shape: (B, L, E).
        x_init: float32 [B, L, E], taken exactly as given. None draws N(0, I), adds the sampler's
            ``start_mean`` where it has one, and puts the anchors in.
        clamp: applied to the estimate of ``x_start`` before the sampler uses it.
        anchor: positions that are put back after every step.
        guidance: moves the state after every step.
        at_rows: maps a grid's step to that of the rows, whose noise levels may differ by position
            (fields [B, L, 1]); None takes the step as it is.
        self_condition: give the network its own previous output (Chen et al. 2023), zeros at first.
            It is the output before clamping, as in training.
        noise_bound: draw the step noise from N(0, 1) truncated to [-noise_bound, noise_bound]
            (``top_p`` in the published programs).
        noise_scale: multiplies the noise that every step draws; below 1 the samples are more
            typical and less diverse (a temperature; Yim et al. 2023, arXiv:2302.02277, section 5).
        noise: float32 [S, B, L, E], used instead of drawing step noise (to repeat recorded chains).
        collect: (info, output, x) -> pytree to stack.
        collect_every: collect every this many steps, counted back from the last, which is always
            kept.

    Returns:
        SampleResult.

    Raises:
        UserError: an option that the sampler or the grid cannot honour, or a key of the wrong kind.
        ValueError: arrays of the wrong shape.
    """
    num_steps = len(grid.t)
    keys = _example_keys(key, shape[0])
    _check_options(sampler, grid, noise, noise_bound, noise_scale, collect, collect_every)
    _check_shapes(shape, num_steps, x_init, anchor, noise)

    if x_init is None:
        x_init = _draw(keys, "x_init", 0, shape)
        if sampler.start_mean is not None:
            x_init = x_init + sampler.start_mean
        if anchor is not None:
            x_init = anchor(x_init)
    x_init = jnp.asarray(x_init, jnp.float32)

    def run_step(carry: _Carry, step_inputs: tuple[StepInfo, jax.Array | None]):
        info, given_noise = step_inputs
        info = info if at_rows is None else at_rows(info)
        time = jnp.full((shape[0],), info.time, jnp.float32)
        network_output = denoise(carry.state.x_t, time, carry.self_cond).astype(jnp.float32)
        pred_x_start = network_output if clamp is None else clamp(network_output, info)

        step_noise = given_noise
        if sampler.needs_noise and noise is None:
            step_noise = _draw(keys, "step_noise", info.index, shape, bound=noise_bound)
            step_noise = noise_scale * step_noise
        state, output = sampler.step(carry.state, pred_x_start, info, step_noise)

        x, guide_state = state.x_t, carry.guide_state
        if guidance is not None:
            guide_keys = _streams(keys, "guidance", info.index)
            x, guide_state = guidance.apply(guide_keys, x, guide_state, info, output)
        if anchor is not None:
            x = anchor(x)

        collected = carry.collected
        if collect is not None:
            collected = _record(collected, collect, collect_every, num_steps, info, output, x)
        self_cond = network_output if self_condition else None
        return _Carry(state._replace(x_t=x), guide_state, self_cond, collected), None

    start = _Carry(
        state=sampler.init(x_init),
        guide_state=None if guidance is None else guidance.init(x_init),
        self_cond=jnp.zeros(shape, jnp.float32) if self_condition else None,
        collected=None,
    )
    if collect is not None:
        start = start._replace(collected=_empty_record(collect, collect_every, grid, x_init))
    end, _ = jax.lax.scan(run_step, start, (grid, noise))
    return SampleResult(end.state.x_t, end.collected)


def _example_keys(key: jax.Array, batch_size: int) -> jax.Array:
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise UserError(
            "key must be a typed key: use jax.random.key(seed), not PRNGKey or a number"
        )
    if key.ndim == 0:
        return per_example(key, jnp.arange(batch_size))
    check_shape("key", key, (batch_size,))
    return key


def _check_options(
    sampler: Sampler,
    grid: StepInfo,
    noise: jax.Array | None,
    noise_bound: float | None,
    noise_scale: float,
    collect: CollectFn | None,
    collect_every: int,
) -> None:
    shaped = noise_bound is not None or noise_scale != 1.0
    if not sampler.needs_noise and (noise is not None or shaped):
        raise UserError(
            "noise, noise_bound and noise_scale have no effect on a deterministic sampler; leave "
            "them out or choose one that draws noise (ddpm, or ddim with eta > 0)"
        )
    if noise is not None and shaped:
        raise UserError("noise_bound and noise_scale have no effect on given noise; leave them out")
    if not 0 <= noise_scale <= 1:
        raise UserError(f"noise_scale={noise_scale} is not allowed; use a number from 0 to 1")
    if noise_bound is not None and noise_bound <= 0:
        raise UserError(f"noise_bound={noise_bound} is not allowed; use a positive number or None")
    if collect_every < 1 or (collect is None and collect_every != 1):
        raise UserError(f"collect_every={collect_every} needs collect and at least 1")
    # A grid that is an argument of a jitted function has no values to look at.
    known = isinstance(grid.t, np.ndarray)
    if known:
        sampler.check_grid(grid)
    if sampler.needs_noise and known and np.any(grid.beta <= 0):
        raise UserError(
            "a grid that goes from data to noise needs a deterministic sampler; use ddim(eta=0)"
        )


def _check_shapes(
    shape: tuple[int, int, int],
    num_steps: int,
    x_init: jax.Array | None,
    anchor: Anchor | None,
    noise: jax.Array | None,
) -> None:
    if x_init is not None:
        check_shape("x_init", x_init, shape)
    if anchor is not None:
        check_shape("anchor.x_start", anchor.x_start, shape)
        check_shape("anchor.noise_mask", anchor.noise_mask, shape[:2])
    if noise is not None:
        check_shape("noise", noise, (num_steps, *shape))


def _streams(keys: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    return jax.vmap(lambda key: stream(key, name, step))(keys)


def _draw(
    keys: jax.Array,
    name: str,
    step: jax.Array | int,
    shape: tuple[int, int, int],
    *,
    bound: float | None = None,
) -> jax.Array:
    """Draw [B, L, E] normal noise, row b from ``keys[b]`` alone."""

    def draw_one(key: jax.Array) -> jax.Array:
        if bound is None:
            return jax.random.normal(key, shape[1:])
        return jax.random.truncated_normal(key, -bound, bound, shape[1:])

    return jax.vmap(draw_one)(_streams(keys, name, step))


def _empty_record(collect: CollectFn, collect_every: int, grid: StepInfo, x_init: jax.Array) -> Any:
    rows = (len(grid.t) - 1) // collect_every + 1
    first_step = jax.tree.map(lambda field: jnp.asarray(field[0]), grid)
    output = StepOutput(pred_x_start=x_init, mean=x_init, sigma=jnp.zeros(()))
    entry = jax.eval_shape(collect, first_step, output, x_init)
    return jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape), leaf.dtype), entry)


def _record(
    collected: Any,
    collect: CollectFn,
    collect_every: int,
    num_steps: int,
    info: StepInfo,
    output: StepOutput,
    x: jax.Array,
) -> Any:
    """Write this step's entry into its row, if it is one of those that are kept."""
    keep = (num_steps - 1 - info.index) % collect_every == 0
    row = info.index // collect_every

    def compute() -> Any:
        return collect(info, output, x)

    def skip() -> Any:
        return jax.tree.map(lambda rows: jnp.zeros(rows.shape[1:], rows.dtype), collected)

    entry = jax.lax.cond(keep, compute, skip)
    # Steps that are not kept write to a row past the end, which is dropped.
    row = jnp.where(keep, row, len(jax.tree.leaves(collected)[0]))
    return jax.tree.map(lambda rows, leaf: rows.at[row].set(leaf, mode="drop"), collected, entry)
