"""The posterior step of Diffusion-LM alone, one timestep per example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.forward import x_start_from_eps
from diffusion_jax.samplers import ddpm, step_grid
from diffusion_jax.schedules import make_schedule
from tests.golden.torch_params import DATA

with np.load(DATA / "p_mean_variance.npz") as file:
    ARRAYS = dict(file)
SCHEDULE = make_schedule("sqrt", int(ARRAYS["T"]))


def steps():
    grid = step_grid(SCHEDULE)
    return jax.tree.map(lambda field: field[::-1][ARRAYS["t"]], grid)


def run(variance, pred_x_start):
    sampler = ddpm(variance=variance)

    def one(x, estimate, info):
        return sampler.step(sampler.init(x), estimate, info, None)[1]

    return jax.vmap(one)(jnp.asarray(ARRAYS["x"]), pred_x_start, steps())


@pytest.mark.parametrize("clip", ["clip", "noclip"])
@pytest.mark.parametrize("predicts", ["START_X", "EPSILON"])
def test_mean(predicts, clip):
    output, x = jnp.asarray(ARRAYS["model_output"][..., :4]), jnp.asarray(ARRAYS["x"])
    if predicts == "EPSILON":
        output = x_start_from_eps(SCHEDULE, x, jnp.asarray(ARRAYS["t"], jnp.int32), output)
    if clip == "clip":
        output = jnp.clip(output, -1, 1)
    result = run("fixed_small", output)
    case = f"{predicts}/FIXED_SMALL/{clip}"
    # Noise prediction divides by sqrt(alpha_bar), 0.05 at the last timestep.
    np.testing.assert_allclose(
        result.pred_x_start, ARRAYS[f"{case}/pred_xstart"], rtol=2e-5, atol=1e-5
    )
    np.testing.assert_allclose(result.mean, ARRAYS[f"{case}/mean"], rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_variance(variance):
    result = run(variance, jnp.asarray(ARRAYS["model_output"][..., :4]))
    golden = ARRAYS[f"variance/{variance.upper()}"]
    # At t = 0 the original multiplies its variance by 0 later; ours is 0 already.
    wanted = np.where(ARRAYS["t"] == 0, 0, golden[:, 0, 0])
    np.testing.assert_allclose(result.sigma**2, wanted, rtol=1e-5)
