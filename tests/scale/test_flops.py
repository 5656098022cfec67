"""Operations counted from the traced program against those counted by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.config import DataConfig, DiffusionConfig, ExperimentConfig, TrainConfig
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.program import Program
from diffusion_jax.scale.flops import network_flops, traced_flops, train_flops

SPEC = DenoiserConfig(
    vocab_size=1024, embed_dim=32, hidden_dim=64, num_layers=3, num_heads=4, mlp_dim=256,
    max_length=16, time_dim=16, remat="none", dropout=0.1,
)  # fmt: skip


def step_flops(spec, self_cond_rate=0.0, microbatches=1):
    config = ExperimentConfig(
        data=DataConfig(length=16),
        model=spec,
        diffusion=DiffusionConfig(self_cond_rate=self_cond_rate),
        train=TrainConfig(batch_size=8, microbatches=microbatches),
    )
    program = Program.build(config)
    batch = {
        "input_ids": jax.ShapeDtypeStruct((8, 16), jnp.int32),
        "noise_mask": jax.ShapeDtypeStruct((8, 16), jnp.bool_),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    return traced_flops(program.train_step(), program.abstract_state(), batch, key)


def test_products_are_counted_through_loops_and_branches():
    x = jnp.ones((4, 8))

    def looped(x):
        y, _ = jax.lax.scan(lambda c, _: (jnp.tanh(c @ c.T @ c), None), x, None, length=5)
        return jax.lax.cond(jnp.sum(y) > 0, lambda y: y @ y.T, lambda y: y[:, :4], y)

    assert traced_flops(looped, x) == 5 * 2 * (2 * 4 * 8 * 4) + 2 * 4 * 8 * 4


def test_the_network_is_counted_exactly():
    program = Program.build(ExperimentConfig(data=DataConfig(length=16), model=SPEC))
    params = program.abstract_state().params
    counted = traced_flops(
        program.model.denoise, params, jnp.ones((8, 16, 32)), jnp.ones((8,), jnp.float32)
    )
    assert counted == 8 * network_flops(SPEC, 16)


@pytest.mark.parametrize("microbatches", [1, 4])
def test_a_training_step_is_counted_within_five_per_cent(microbatches):
    counted = step_flops(SPEC, microbatches=microbatches)
    # Nothing wants the gradient of the time features, nor that of x_start in the rounding loss.
    assert counted == pytest.approx(8 * train_flops(SPEC, 16), rel=0.05)


def test_self_conditioning_costs_its_share_of_a_forward_pass():
    spec = replace(SPEC, self_conditioning=True)
    never, half, always = (train_flops(spec, 16, self_cond_rate=r) for r in (0.0, 0.5, 1.0))
    assert always - never == network_flops(spec, 16)
    assert half == (never + always) / 2
    # A trace has both sides of the branch, and counts the dearer.
    assert step_flops(spec, self_cond_rate=0.5) == pytest.approx(8 * always, rel=0.05)
