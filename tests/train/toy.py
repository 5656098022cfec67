"""A two-matrix denoiser with everything that a training run needs, shaped like the real one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.scale.mesh import make_mesh, place_batch
from diffusion_jax.scale.sharding import jit_train_step, param_shardings, state_shardings
from diffusion_jax.train.optimizer import make_optimizer
from diffusion_jax.train.state import init_state
from diffusion_jax.train.step import make_train_step

B, L, E, D, V, T = 16, 4, 8, 32, 12, 20
LOGICAL_AXES = {"embedding": ("vocab", None), "inner": (None, "mlp"), "outer": ("mlp", None)}


class Terms(NamedTuple):
    mse: jax.Array
    prior: jax.Array

    def total(self):
        return self.mse + self.prior


class Sampler(NamedTuple):
    init: object
    sample: object
    update: object


def uniform():
    """Take every timestep in turn; no randomness, so that it compiles fast."""

    def sample(key, state, batch_size):
        return jnp.arange(batch_size) % T, jnp.ones((batch_size,))

    return Sampler(lambda: (), sample, lambda state, t, losses: state)


def history():
    """Remember the last loss of every timestep and prefer the large ones."""

    def sample(key, state, batch_size):
        weights = 0.1 + state
        cumulative = jnp.cumsum(weights) / jnp.sum(weights)
        t = jnp.searchsorted(cumulative[:-1], jax.random.uniform(key, (batch_size,)))
        return t, jnp.mean(weights) / weights[t]

    def update(state, t, losses):
        return state.at[t].max(losses)

    return Sampler(lambda: jnp.zeros((T,)), sample, update)


def init_params(seed=0):
    # NumPy draws, because compiling a random generator would take longer than the test.
    normal = np.random.default_rng(seed).standard_normal
    arrays = {
        "embedding": normal((V, E)),
        "inner": normal((E, D)) / E**0.5,
        "outer": normal((D, E)) / D**0.5,
    }
    return {name: jnp.asarray(x, jnp.float32) for name, x in arrays.items()}


def loss_fn(params, key, batch, t, dropout_key):
    x_start = params["embedding"][batch["input_ids"]]
    level = (t.astype(jnp.float32) / T)[:, None, None]
    noise = jax.random.normal(key, x_start.shape)
    del dropout_key
    x_t = jnp.sqrt(1 - level) * x_start + jnp.sqrt(level) * noise
    hidden = jnp.tanh(x_t @ params["inner"])
    error = jnp.mean((hidden @ params["outer"] - x_start) ** 2, axis=(1, 2))
    return Terms(error, 0.01 * jnp.mean(x_start**2, axis=(1, 2)))


def batch_at(step):
    rng = np.random.default_rng(step)
    return {"input_ids": rng.integers(0, V, (B, L), dtype=np.int32)}


class Setup(NamedTuple):
    """A run on a mesh."""

    mesh: jax.sharding.Mesh
    state: object
    step: object
    shardings: object
    frozen: object = None

    def place(self, batch):
        return place_batch(self.mesh, batch)


def setup(
    *,
    data=1,
    fsdp=1,
    tensor=1,
    loss=loss_fn,
    sampler=None,
    optimizer=None,
    ema_rates=(0.9, 0.99),
    num_microbatches=1,
    frozen=None,
):
    sampler = sampler or history()
    optimizer = optimizer or make_optimizer(1e-2, 100, clip_norm=1.0)
    mesh = make_mesh(data, fsdp, tensor, devices=jax.devices()[: data * fsdp * tensor])

    state = init_state(init_params(), optimizer, ema_rates=ema_rates, timestep_state=sampler.init())
    shardings = state_shardings(mesh, state, LOGICAL_AXES, optimizer.init)
    step = make_train_step(
        loss, optimizer, sampler, num_timesteps=T, num_microbatches=num_microbatches
    )
    state = jax.device_put(state, shardings)
    if frozen is not None:
        where = param_shardings(mesh, frozen, dict.fromkeys(frozen, ("embed", None)))
        frozen = jax.device_put(frozen, where)
    return Setup(mesh, state, jit_train_step(step, mesh, shardings, frozen), shardings, frozen)
