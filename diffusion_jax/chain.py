"""The reverse chain of a run: configuration and model composed into one compiled program.

Everything that writes text (samples, targets of sources, infillings, controlled text) runs the
chain that is made here.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import keys
from diffusion_jax.adaptive import positions_in_target
from diffusion_jax.config import SampleConfig, require
from diffusion_jax.errors import UserError
from diffusion_jax.guidance.classifier_free import classifier_free
from diffusion_jax.losses.diffusion import hide_source
from diffusion_jax.models.base import Model, bind
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.rounding import most_likely_ids, nearest_embedding
from diffusion_jax.samplers import (
    Anchor,
    CollectFn,
    Sampler,
    absorb_after_step,
    around,
    clamp_to_embeddings,
    ddim,
    ddpm,
    diffuseq_v2_ancestral,
    diffuseq_v2_grid,
    dpm_solver,
    sample,
    shift_time,
    singlestep_grid,
    step_grid,
)
from diffusion_jax.scale.mesh import gather_rows, make_mesh, spread_rows
from diffusion_jax.schedules import NoiseSchedule, schedule_from_betas
from diffusion_jax.types import (
    DenoiseFn,
    Guidance,
    Params,
    RoundingHead,
    StepInfo,
    XStartTransform,
)

Reverse = Callable[[Params, jax.Array, jax.Array, jax.Array], jax.Array]
"""(params, keys [B], input_ids int32 [B, L], noise_mask bool [B, L]) -> ids int32 [B, L]."""

MakeGuidance = Callable[[Params, DenoiseFn, Anchor, Any], Guidance | None]
"""(params, the chain's network, its anchor, what is wanted: any pytree) -> the guide of a chain."""

MakeCollect = Callable[[RoundingHead], CollectFn]
"""(head) -> what to record of every step, see ``samplers.sample``."""


# Coordinates of an embedding that is nearest to nothing; its square is far from overflowing.
_FAR = 1e6


class Written(NamedTuple):
    """What one batch of chains leaves behind.

    Attributes:
        ids: int32 [B, L].
        collected: what was recorded of the steps, [B, S, ...]; None where nothing was asked for.
    """

    ids: jax.Array
    collected: Any


def make_reverse(
    model: Model,
    spec: DenoiserConfig,
    schedule: NoiseSchedule,
    options: SampleConfig,
    *,
    absorb_rate: float = 0.0,
) -> Reverse:
    """Compose the unguided reverse chain, see ``make_chain``."""
    chain = make_chain(model, spec, schedule, options, absorb_rate=absorb_rate)

    def reverse(
        params: Params, row_keys: jax.Array, input_ids: jax.Array, noise_mask: jax.Array
    ) -> jax.Array:
        return chain(params, row_keys, input_ids, noise_mask).ids

    return reverse


def make_chain(
    model: Model,
    spec: DenoiserConfig,
    schedule: NoiseSchedule,
    options: SampleConfig,
    *,
    make_guidance: MakeGuidance | None = None,
    make_collect: MakeCollect | None = None,
    collect_every: int = 1,
    special_ids: Sequence[int] = (),
    absorb_rate: float = 0.0,
) -> Callable[..., Written]:
    """Compose a reverse chain: anchors in, noise, the scanned sampler, rounding to ids.

    Args:
        model: the denoiser.
        spec: its shape.
        schedule: what the chain runs on, ``Program.chain_schedule``; indices t are its own.
        options: how to sample.
        make_guidance: what steers the chain; None leaves it unguided.
        make_collect: what to record of the steps.
        collect_every: record every this many steps, see ``samplers.sample``.
        special_ids: ids that are no words, for ``word_mask``.
        absorb_rate: the rate that the model was trained with; DiffuSeq-v2's published ancestral
            chain (``options.faithful_v2``) absorbs with it, no other does.

    Returns:
        (params, keys [B], input_ids int32 [B, L], noise_mask bool [B, L], wanted, word_mask) ->
        Written. Given positions (noise mask False) come back as they went in. ``wanted`` goes to
        ``make_guidance``. Where ``word_mask``, bool [B, L] or None, is True, no special id is
        written, nor does clamping pull toward one: a text of known length has words up to its end.

    Raises:
        UserError: a guide for a published chain that has none, or more steps than the schedule has.
    """
    if options.faithful_v2 and make_guidance is not None:
        raise UserError(
            "faithful_v2 repeats a published chain, which has no guidance; leave it out"
        )
    grid = make_grid(options, schedule)

    def chain(
        params: Params,
        row_keys: jax.Array,
        input_ids: jax.Array,
        noise_mask: jax.Array,
        wanted: Any = None,
        word_mask: jax.Array | None = None,
    ) -> Written:
        head = model.head(params)
        denoise = _network(model, params, noise_mask, options)
        words = _words_only(head, special_ids) if word_mask is not None else head
        anchor = Anchor(model.embed(params, input_ids), noise_mask)
        mean_embed = params["mean_embed"] if spec.mean_embed else None
        guidance = make_guidance and make_guidance(params, denoise, anchor, wanted)
        if options.faithful_v2 and options.sampler == "ddpm":
            guidance = absorb_after_step(params["mean_embed"], absorb_rate)
        result = sample(
            row_keys,
            denoise,
            make_sampler(options, mean_embed),
            grid,
            (input_ids.shape[0], input_ids.shape[1], spec.embed_dim),
            clamp=_by_mask(
                word_mask,
                make_clamp(options, schedule, words.weight),
                make_clamp(options, schedule, head.weight),
            ),
            anchor=anchor,
            guidance=guidance,
            at_rows=_at_rows(grid, noise_mask),
            self_condition=spec.self_conditioning,
            noise_bound=options.noise_bound or None,
            noise_scale=options.noise_scale,
            collect=make_collect and make_collect(head),
            collect_every=collect_every,
        )
        ids = _round(options, head, result.x_start)
        if word_mask is not None:
            ids = jnp.where(word_mask, _round(options, words, result.x_start), ids)
        # Batch first, as everything that leaves a chain.
        collected = jax.tree.map(lambda rows: jnp.moveaxis(rows, 0, 1), result.collected)
        return Written(jnp.where(noise_mask, ids, input_ids), collected)

    return chain


# The fields of a step that differ between positions with schedules of their own.
_NOISE_FIELDS = (
    "alpha_bar",
    "alpha_bar_prev",
    "one_minus_alpha_bar",
    "one_minus_alpha_bar_prev",
    "beta",
)


def _grid_by_position(options: SampleConfig, schedule: NoiseSchedule) -> StepInfo:
    """Return the steps of schedules [T, P]: the noise fields are [S, P], the others [S]."""
    grids = [
        make_grid(options, schedule_from_betas(betas, schedule.model_timesteps))
        for betas in schedule.betas.T
    ]
    columns = {
        name: np.stack([getattr(grid, name) for grid in grids], axis=1) for name in _NOISE_FIELDS
    }
    return grids[0]._replace(**columns)


def _at_rows(grid: StepInfo, noise_mask: jax.Array) -> Callable[[StepInfo], StepInfo] | None:
    """Return what looks up the noise of every position of every row, where a grid has several."""
    if np.ndim(grid.alpha_bar) == 1:
        return None
    places = positions_in_target(noise_mask)

    def at_rows(info: StepInfo) -> StepInfo:
        return info._replace(
            **{name: getattr(info, name)[places][..., None] for name in _NOISE_FIELDS}
        )

    return at_rows


def _network(
    model: Model, params: Params, noise_mask: jax.Array, options: SampleConfig
) -> DenoiseFn:
    """Return the network of a chain, weighed against the one that sees no source where asked."""
    conditional = bind(model, params, temperature=options.temperature)
    if options.guidance_scale == 1.0:
        return conditional

    def unconditional(
        x_t: jax.Array, time: jax.Array, self_cond: jax.Array | None = None
    ) -> jax.Array:
        hidden = hide_source(x_t, noise_mask)
        if self_cond is not None:
            self_cond = hide_source(self_cond, noise_mask)
        return conditional(hidden, time, self_cond)

    return classifier_free(conditional, unconditional, options.guidance_scale)


def make_sampler(options: SampleConfig, mean_embed: jax.Array | None = None) -> Sampler:
    """Return the sampler that the options name, around ``mean_embed`` [E] where there is one."""
    if options.sampler == "dpm++":
        sampler = dpm_solver(
            order=options.order, method=options.method, faithful_v2=options.faithful_v2
        )
    elif options.sampler == "ddim":
        sampler = ddim(eta=options.eta)
    elif options.faithful_v2:
        assert mean_embed is not None  # the configuration has seen to it
        return diffuseq_v2_ancestral(mean_embed, variance=options.variance)
    else:
        sampler = ddpm(variance=options.variance)
    if mean_embed is None or options.faithful_v2:
        return sampler
    return around(sampler, mean_embed)


def make_grid(options: SampleConfig, schedule: NoiseSchedule) -> StepInfo:
    """Return the steps that the options ask for.

    Raises:
        UserError: there are not as many. A configuration refuses that by itself, but how many are
            left where the clip follows the embeddings (``clip_noise="auto"``) is known only now.
    """
    left = schedule.num_timesteps
    require(
        options.steps <= left,
        "sample.steps",
        options.steps,
        f'at most {left}: the clip as it was learned (diffusion.clip_noise "auto") leaves no more',
    )
    if schedule.alphas_cumprod.ndim == 2:
        return _grid_by_position(options, schedule)
    steps, spacing = options.steps, options.spacing
    if options.sampler == "dpm++" and options.faithful_v2:
        return diffuseq_v2_grid(schedule, steps, spacing=spacing)
    if options.sampler == "dpm++" and options.method == "singlestep":
        grid = singlestep_grid(schedule, steps, order=options.order, spacing=spacing)
    else:
        grid = step_grid(schedule, steps, spacing=spacing)
    return shift_time(grid, schedule, options.time_shift)


def make_clamp(
    options: SampleConfig, schedule: NoiseSchedule, embedding: jax.Array
) -> XStartTransform | None:
    """Return the clamping trick where the options ask for it."""
    if options.clamp == "none":
        return None
    last_half = (len(schedule.betas) - 1) // 2
    return clamp_to_embeddings(embedding, max_t=last_half if options.clamp == "last" else None)


def _round(options: SampleConfig, head: RoundingHead, x_start: jax.Array) -> jax.Array:
    if options.rounding == "nearest":
        return nearest_embedding(x_start, head.weight)[0]
    return most_likely_ids(head, x_start)


def _words_only(head: RoundingHead, special_ids: Sequence[int]) -> RoundingHead:
    """Return a head under which no special id is ever nearest or most likely."""
    special = jnp.asarray(special_ids, jnp.int32)
    return RoundingHead(head.weight.at[special].set(_FAR), head.bias.at[special].set(-jnp.inf))


def _by_mask(
    word_mask: jax.Array | None, words: XStartTransform | None, every: XStartTransform | None
) -> XStartTransform | None:
    """Return ``words`` at the positions of the mask [B, L] and ``every`` elsewhere."""
    if word_mask is None or words is None or every is None:
        return every

    def clamp(pred_x_start: jax.Array, info: StepInfo) -> jax.Array:
        chosen = words(pred_x_start, info), every(pred_x_start, info)
        return jnp.where(word_mask[..., None], *chosen)

    return clamp


def run_batches(function: Callable[..., Any], rows: Any, batch_size: int) -> Any:
    """Call ``function(*rows)`` on batches of one size, so that it compiles once.

    Args:
        function: takes and returns pytrees of arrays whose first axis is the batch.
        rows: the arguments, pytrees of arrays [N, ...].
        batch_size: rows per call, rounded up to a multiple of the number of devices.

    Returns:
        The results on the host, NumPy arrays [N, ...].
    """
    mesh = make_mesh()
    devices = mesh.devices.size
    batch_size = -(-batch_size // devices) * devices
    total = len(jax.tree.leaves(rows)[0])
    written = []
    for start in range(0, total, batch_size):
        # The last batch is filled up with copies of its last row, which are then left out.
        index = np.minimum(np.arange(start, start + batch_size), total - 1)
        batch = jax.tree.map(operator.itemgetter(index), rows)
        batch = spread_rows(mesh, batch)
        written.append(jax.tree.map(gather_rows, function(*batch)))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:total], *written)


def example_keys(seed: int, indices: Sequence[int], num_candidates: int = 1) -> jax.Array:
    """Return [N * C] keys: one per example index and candidate."""
    root = keys.stream(jax.random.key(seed), "sample")
    examples = keys.per_example(root, jnp.asarray(indices, jnp.uint32))
    candidates = jnp.arange(num_candidates, dtype=jnp.uint32)
    both = jax.vmap(lambda key: jax.vmap(lambda c: jax.random.fold_in(key, c))(candidates))
    return both(examples).reshape(-1)
