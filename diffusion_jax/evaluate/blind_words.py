"""Which words a trained network gives back at little noise, and to which it is blind.

Where the nearest embedding still names every word right, a denoiser should too. One that was
trained on the published loss may not: see "Weight by signal-to-noise ratio" in docs/techniques.md.
A word that is never given back is hardly ever written.
"""

from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.losses.diffusion import noised
from diffusion_jax.losses.terms import Draws
from diffusion_jax.models.base import bind, own_estimate
from diffusion_jax.program import Program
from diffusion_jax.rounding import nearest_embedding
from diffusion_jax.text.loader import filled_batches
from diffusion_jax.text.store import TokenStore
from diffusion_jax.text.tokenizers import Tokenizer
from diffusion_jax.text.tokenizers.base import special_ids
from diffusion_jax.types import Params

SHARE_OF_NOISE = 0.01
"""Of the training timesteps; t = 20 of 2000."""


class WordRecovery(NamedTuple):
    """What a network makes of lightly noised texts.

    Attributes:
        timestep: t of the noise.
        given_back: share of the generated words that are nearest to the network's estimate.
        blind: words that are given back in fewer than half of their places, the commonest first.
        places: how many places these words have.
        words: words that were looked at.
    """

    timestep: int
    given_back: float
    blind: tuple[str, ...]
    places: int
    words: int


def word_recovery(
    program: Program,
    params: Params,
    store: TokenStore,
    tokenizer: Tokenizer,
    *,
    num_rows: int = 1024,
    timestep: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> WordRecovery:
    """Noise the first rows of a store a little and look which words the estimates round to.

    Args:
        program: of the trained configuration.
        params: parameters of the denoiser.
        store: packed rows; of pairs, the targets are looked at.
        tokenizer: of the rows; START, END, SEP, PAD and UNK are passed over.
        num_rows: how many rows, at most.
        timestep: t in [0, T); default a hundredth of T, not below what the run was trained on.
        batch_size: rows per compiled call.
        seed: of the noise.

    Raises:
        UserError: a number out of range, or no words.
    """
    schedule, options = program.schedule, program.config.diffusion
    if timestep is None:
        timestep = max(int(SHARE_OF_NOISE * schedule.num_timesteps), options.min_timestep)
    if not 0 <= timestep < schedule.num_timesteps:
        raise UserError(f"timestep {timestep}: choose 0 to {schedule.num_timesteps - 1}")
    if num_rows < 1 or batch_size < 1:
        raise UserError(f"num_rows={num_rows} and batch_size={batch_size} must be at least 1")
    conditioned = program.config.model.self_conditioning

    @jax.jit
    def rounded(
        params: Params, key: jax.Array, input_ids: jax.Array, noise_mask: jax.Array
    ) -> jax.Array:
        x_start = program.model.embed(params, input_ids)
        t = jnp.full(input_ids.shape[:1], timestep)
        draws = Draws(jnp.zeros_like(x_start), jax.random.normal(key, x_start.shape))
        mean_embed = params.get("mean_embed")
        if mean_embed is not None:
            draws = draws._replace(absorb_mask=jnp.zeros(input_ids.shape, bool))
        x_t = noised(schedule, x_start, t, noise_mask, mean_embed, draws)
        time = jnp.asarray(schedule.model_timesteps, jnp.float32)[t]
        denoise = bind(program.model, params)
        estimate = own_estimate(denoise, x_t, time, self_condition=conditioned)
        return nearest_embedding(estimate, program.model.head(params).weight)[0]

    no_words = [*special_ids(tokenizer), tokenizer.unk_id]
    num_rows = min(num_rows, len(store))
    places: Counter[int] = Counter()
    found: Counter[int] = Counter()
    for index in filled_batches(num_rows, batch_size):
        start = int(index[0])
        rows = store.rows(index)
        key = jax.random.fold_in(jax.random.key(seed), start)
        given_back = np.asarray(rounded(params, key, rows["input_ids"], rows["noise_mask"]))
        # Not what fills up the last batch.
        counted = slice(0, num_rows - start)
        ids, back = rows["input_ids"][counted], given_back[counted]
        looked_at = rows["noise_mask"][counted] & ~np.isin(ids, no_words)
        places.update(ids[looked_at].tolist())
        found.update(ids[looked_at & (back == ids)].tolist())
    if not places:
        raise UserError("the rows hold no words to look at")
    blind = [token for token, count in places.most_common() if 2 * found[token] < count]
    return WordRecovery(
        timestep=timestep,
        given_back=sum(found.values()) / sum(places.values()),
        blind=tuple(tokenizer.tokens(blind)),
        places=sum(places[token] for token in blind),
        words=len(places),
    )
