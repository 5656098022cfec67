"""Learning rates that transfer across widths: which parameters they touch, and what it is for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.config import DataConfig, ExperimentConfig, OptimConfig, TrainConfig
from diffusion_jax.errors import UserError
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.program import Program
from diffusion_jax.train.transfer import base_spec, rate_multipliers
from diffusion_jax.training_run import configured_optimizer

LENGTH, BASE = 6, 32


def program(width, base_width, rate=0.02):
    spec = DenoiserConfig(
        vocab_size=40, embed_dim=8, hidden_dim=width, num_layers=1, num_heads=width // 8,
        mlp_dim=2 * width, max_length=LENGTH, time_dim=8, remat="none", dropout=0.0,
        attention_dropout=0.0, norm="pre", init="torch",
    )  # fmt: skip
    return Program.build(
        ExperimentConfig(
            data=DataConfig(length=LENGTH),
            model=spec,
            optim=OptimConfig(learning_rate=rate, decay="constant", base_width=base_width),
            train=TrainConfig(batch_size=8, ema_rates=()),
        )
    )


def test_who_learns_more_slowly():
    wide = program(128, BASE)
    base = program(BASE, 0).abstract_state().params
    factors = rate_multipliers(wide.abstract_state().params, base)
    network = factors["network"]
    assert network["layers"]["attention"]["qkv"]["kernel"] == 0.25
    assert network["layers"]["attention"]["out"]["kernel"] == 0.25
    assert network["layers"]["mlp"]["out"]["kernel"] == 0.25
    assert network["up_out"]["kernel"] == network["down_out"]["kernel"] == 0.25
    # From a fixed size to the width, and everything that is no matrix: as before.
    assert network["up_in"]["kernel"] == network["time_out"]["kernel"] == 1.0
    assert network["layers"]["attention"]["qkv"]["bias"] == network["positions"] == 1.0
    assert factors["embedding"] == 1.0


@pytest.mark.slow
def test_only_the_output_begins_smaller():
    plain, scaled = program(128, 0), program(128, BASE)
    a, b = (p.model.init(jax.random.key(0)) for p in (plain, scaled))
    np.testing.assert_allclose(
        b["network"]["down_out"]["kernel"], 0.5 * a["network"]["down_out"]["kernel"], rtol=1e-6
    )
    a["network"].pop("down_out")
    b["network"].pop("down_out")
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_the_base_width_changes_nothing():
    a, b = program(BASE, 0), program(BASE, BASE)
    jax.tree.map(np.testing.assert_array_equal, *(p.model.init(jax.random.key(0)) for p in (a, b)))
    params, grads = ({"kernel": jnp.ones((2, 2))} for _ in range(2))
    optimizer = configured_optimizer(OptimConfig(base_width=2), 10, {"kernel": 1.0})
    plain = configured_optimizer(OptimConfig(), 10)
    updates = [o.update(grads, o.init(params), params)[0]["kernel"] for o in (optimizer, plain)]
    np.testing.assert_array_equal(*updates)


@pytest.mark.slow
def test_coordinates_move_alike_at_every_width():
    """The coordinate check of Yang and Hu 2021: how far the output moves in a few steps."""

    key_x, key_y = jax.random.split(jax.random.key(1))
    x, y = (jax.random.normal(key, (8, LENGTH, 8)) for key in (key_x, key_y))
    t = jnp.full((8,), 500.0)

    def moved(width, base_width):
        run = program(width, base_width)

        def loss(params):
            return jnp.mean((run.model.denoise(params, x, t) - y) ** 2)

        def step(carry, _):
            params, state = carry
            updates, state = run.optimizer.update(jax.grad(loss)(params), state, params)
            return (jax.tree.map(jnp.add, params, updates), state), None

        @jax.jit
        def after_four_steps(params):
            start = (params, run.optimizer.init(params))
            (end, _), _ = jax.lax.scan(step, start, None, length=4)
            return jnp.std(run.model.denoise(end, x, t) - run.model.denoise(params, x, t))

        return float(after_four_steps(run.model.init(jax.random.key(2))))

    plain = moved(256, 0) / moved(32, 0)
    transferred = moved(256, 32) / moved(32, 32)
    assert plain > 2.0, (plain, transferred)
    assert 0.5 < transferred < 1.7, (plain, transferred)


def test_what_cannot_be_transferred():
    spec = program(64, 0).config.model
    with pytest.raises(UserError, match="multiple of the width of a head, 8"):
        base_spec(spec, 20)
    with pytest.raises(UserError, match=r"mlp_dim"):
        base_spec(dataclasses.replace(spec, mlp_dim=65), 16)
    for width, base in ((64, 8), (8, 32)):
        with pytest.raises(UserError, match="no projection from or to its embedding"):
            program(width, base)
    with pytest.raises(UserError, match="not transferred"):
        configured_optimizer(OptimConfig(base_width=8), 10)
