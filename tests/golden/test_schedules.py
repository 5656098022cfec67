"""Every table of every named schedule, and respacing, as the originals compute them in float64."""

import json

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.schedules import make_schedule, parse_respacing, respace, schedule_names
from tests.golden.torch_params import DATA

# Ours are derived from the betas themselves, the originals' from betas that went through a division
# and back; a beta of 1e-4 keeps 1e-12 of relative precision on that way.
RTOL = ATOL = 1e-12


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(DATA / "schedules.npz") as arrays:
        return dict(arrays)


def tables(golden, prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): golden[key] for key in golden if key.startswith(prefix)}


def compare(schedule, wanted: dict[str, np.ndarray], rows=slice(None)):
    for name, want in wanted.items():
        attribute = "betas" if name == "betas_respaced_identity" else name
        got = getattr(schedule, attribute)[rows]
        np.testing.assert_allclose(got, want, rtol=RTOL, atol=ATOL, err_msg=name)


@pytest.mark.parametrize("num_timesteps", [10, 200, 2000])
@pytest.mark.parametrize("name", schedule_names())
def test_named_schedule(golden, name, num_timesteps):
    case = f"{name}/T{num_timesteps}"
    if json.loads(str(golden["status"]))[case] != "ok":
        with pytest.raises(UserError, match="use more timesteps"):
            make_schedule(name, num_timesteps)
        return
    rows = golden["rows_T2000"] if num_timesteps == 2000 else slice(None)
    wanted = tables(golden, f"{case}/")
    assert len(wanted) >= 7
    compare(make_schedule(name, num_timesteps), wanted, rows)


@pytest.mark.parametrize("spec", ["20", "ddim20", "10,15,20", "200", "7,0,3"])
def test_respacing(golden, spec):
    wanted = tables(golden, f"respace/T200/{spec.replace(',', '-')}/")
    kept = parse_respacing(spec, 200)
    assert kept == tuple(wanted.pop("use_timesteps"))
    schedule = respace(make_schedule("sqrt", 200), kept)
    compare(schedule, wanted)


@pytest.mark.parametrize(("spec", "num_timesteps"), [("ddim30", 200), ("101", 100)])
def test_respacing_that_the_originals_refuse(spec, num_timesteps):
    with pytest.raises(UserError, match=spec):
        parse_respacing(spec, num_timesteps)
