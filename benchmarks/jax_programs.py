"""The project's own programs, exactly as a run compiles them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.sizes import Size
from diffusion_jax.config import DataConfig, DiffusionConfig, ExperimentConfig, TrainConfig
from diffusion_jax.models.base import bind
from diffusion_jax.program import Program
from diffusion_jax.samplers.ddpm import ddpm
from diffusion_jax.samplers.driver import sample
from diffusion_jax.samplers.grid import step_grid
from diffusion_jax.samplers.transforms import clamp_to_embeddings
from diffusion_jax.schedules import make_schedule

NUM_TIMESTEPS = 2000
LEARNING_RATE = 1e-4
EMA_RATE = 0.9999


def random_ids(size: Size) -> np.ndarray:
    """Return a batch of token ids [B, L]."""
    return np.random.default_rng(0).integers(
        size.spec.vocab_size, size=(size.batch_size, size.length)
    )


def build_program(size: Size) -> Program:
    """Compose the project's training program at one size (Diffusion-LM, uniform timesteps)."""
    return Program.build(
        ExperimentConfig(
            model=size.spec,
            data=DataConfig(length=size.length),
            diffusion=DiffusionConfig(timesteps=NUM_TIMESTEPS),
            train=TrainConfig(batch_size=size.batch_size, ema_rates=(EMA_RATE,)),
        )
    )


def lower_train_step(size: Size) -> jax.stages.Lowered:
    """Trace the training step for this size, without making any array."""
    program = build_program(size)
    shape = (size.batch_size, size.length)
    batch = {
        "input_ids": jax.ShapeDtypeStruct(shape, jnp.int32),
        "noise_mask": jax.ShapeDtypeStruct(shape, jnp.bool_),
    }
    step = jax.jit(program.train_step(), donate_argnums=0)
    return step.lower(program.abstract_state(), batch, jax.random.key(0))


def train_program(size: Size) -> tuple[Callable[[], object], jax.stages.Compiled]:
    """Return a function that makes one training step, and what was compiled for it."""
    compiled = lower_train_step(size).compile()
    state = jax.jit(build_program(size).make_state)(jax.random.key(0))
    ids = jnp.asarray(random_ids(size), jnp.int32)
    batch = {"input_ids": ids, "noise_mask": jnp.ones(ids.shape, jnp.bool_)}
    root_key = jax.random.key(1)

    def run() -> object:
        nonlocal state
        state, metrics = compiled(state, batch, root_key)
        return state, metrics

    return run, compiled


def reverse_program(size: Size, num_steps: int) -> Callable[[], jax.Array]:
    """Return a function that runs a chain of ``num_steps`` ancestral steps with the clamp."""
    program = build_program(size)
    params = jax.jit(program.model.init)(jax.random.key(0))
    grid = step_grid(make_schedule("sqrt", NUM_TIMESTEPS), num_steps)
    shape = (size.batch_size, size.length, size.spec.embed_dim)

    @jax.jit
    def chain(params, key):
        clamp = clamp_to_embeddings(params["embedding"])
        return sample(key, bind(program.model, params), ddpm(), grid, shape, clamp=clamp).x_start

    return functools.partial(chain, params, jax.random.key(1))


def train_flops(size: Size) -> float:
    """Count the multiplications and additions that one training step needs, products only.

    Backward is twice forward; what is computed again to save memory does not count.
    """
    spec, tokens = size.spec, size.tokens
    width = spec.hidden_dim
    block = 4 * width**2 + 2 * width * spec.mlp_dim + 2 * width * size.length
    ends = 2 * width**2 + 2 * width * spec.embed_dim
    head = spec.embed_dim * spec.vocab_size
    return 3 * 2.0 * tokens * (spec.num_layers * block + ends + head)
