"""DPM-Solver++ as DiffuSeq-v2 runs it, and the published algorithm on the same network."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.base import bind
from diffusion_jax.samplers import Anchor, diffuseq_v2_grid, dpm_solver, sample
from diffusion_jax.samplers.grid import _half_log_snr, _index_of_half_log_snr, _log_alpha_bar
from diffusion_jax.schedules import make_schedule
from tests.golden.torch_params import DATA, load_params

SPACINGS = {"time_uniform": "trailing", "time_quadratic": "quadratic", "logSNR": "log_snr"}


def load():
    with np.load(DATA / "dpm_solver.npz") as arrays:
        return dict(arrays)


GOLDEN = load()
SCHEDULE = make_schedule("sqrt", int(GOLDEN["T"]))
# Their parts are all in other cases, too.
SLOW = {"ref_2_o2", "ref_5_o2", "ref_8_o1", "ref_10_o2", "standard_8_o1", "standard_10_o2"}
CASES = [
    pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else [])
    for case in json.loads(str(GOLDEN["cases"]))
]


@pytest.fixture(scope="module")
def network():
    return load_params(DATA / "dseq2_model.npz")


@pytest.mark.parametrize("case", CASES)
def test_chain(network, case):
    model, params = network
    meta = json.loads(str(GOLDEN[f"{case}/meta"]))
    faithful = case.startswith("ref")
    sampler = dpm_solver(
        order=meta["order"],
        second_order="taylor" if meta.get("solver_type") == "taylor" else "midpoint",
        faithful_v2=faithful,
    )
    grid = diffuseq_v2_grid(SCHEDULE, meta["steps"], spacing=SPACINGS[meta["skip_type"]])
    # The original forms its times in float32.
    np.testing.assert_allclose(grid.time, GOLDEN[f"{case}/model_t"], rtol=1e-5)
    anchor = Anchor(jnp.asarray(GOLDEN["x_start"]), jnp.asarray(GOLDEN["mask"] == 1))

    def chain(x_init):
        def keep(info, output, x):
            return x, anchor(output.pred_x_start)

        options = {"x_init": x_init, "anchor": anchor, "collect": keep}
        return sample(
            *(jax.random.key(0), bind(model, params), sampler, grid, x_init.shape), **options
        )

    result = jax.jit(chain)(jnp.asarray(GOLDEN["x_T"]))
    states, estimates = result.collected
    first = estimates[0] if faithful else GOLDEN["x_T"]
    wanted = GOLDEN[f"{case}/intermediates"]
    # The original divides by alpha = 4e-4 near t = 1, in float32.
    tolerance = 1e-5 + 4 * GOLDEN[f"{case}/x_err"]
    for step, (ours, theirs) in enumerate(zip((first, *states), wanted, strict=True)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance[step], err_msg=str(step))
    np.testing.assert_allclose(result.x_start, GOLDEN[f"{case}/x"], rtol=0, atol=tolerance[-1])


def test_schedule_between_the_indices():
    index = GOLDEN["schedule/t"] * SCHEDULE.num_timesteps - 1
    # Index -1 is clean data here; the original goes on in a straight line to its left.
    known = index >= 0
    log_alpha = 0.5 * _log_alpha_bar(SCHEDULE, index[known])
    # The original keeps its table in float32.
    np.testing.assert_allclose(log_alpha, GOLDEN["schedule/log_alpha"][known], rtol=1e-6)
    half_log_snr = _half_log_snr(SCHEDULE, index[known])
    np.testing.assert_allclose(half_log_snr, GOLDEN["schedule/lambda"][known], rtol=1e-6, atol=3e-7)
    back = _index_of_half_log_snr(SCHEDULE, half_log_snr)
    np.testing.assert_allclose(back, index[known], atol=1e-6)
