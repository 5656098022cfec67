"""What must hold for every schedule, whatever the originals compute."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.errors import UserError
from diffusion_jax.schedules import (
    extract,
    make_schedule,
    parse_respacing,
    respace,
    schedule_from_betas,
    schedule_names,
)

NAMES = schedule_names()


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_consistent(name):
    schedule = make_schedule(name, 100)
    assert schedule.num_timesteps == 100
    assert all(getattr(schedule, f.name).dtype == np.float64 for f in dataclasses.fields(schedule))
    np.testing.assert_allclose(schedule.alphas_cumprod, np.cumprod(1.0 - schedule.betas))
    np.testing.assert_array_equal(schedule.alphas_cumprod_prev[1:], schedule.alphas_cumprod[:-1])
    assert schedule.alphas_cumprod_prev[0] == 1.0
    assert np.all(np.diff(schedule.log_snr) < 0)
    assert np.float32(schedule.posterior_mean_coef1[0]) == 1.0
    assert schedule.posterior_mean_coef2[0] == 0.0
    assert schedule.posterior_variance[0] == 0.0
    assert schedule.fixed_large_variance[0] == schedule.posterior_variance[1]
    np.testing.assert_allclose(schedule.model_timesteps, np.arange(100) * 10.0)


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_compose_to_the_marginal(name):
    """Posterior mean of a noiseless ``x_t`` is the noiseless ``x_{t-1}``."""
    schedule = make_schedule(name, 100)
    mean = schedule.posterior_mean_coef1 + schedule.posterior_mean_coef2 * np.sqrt(
        schedule.alphas_cumprod
    )
    np.testing.assert_allclose(mean, np.sqrt(schedule.alphas_cumprod_prev), rtol=1e-12)


def test_published_values():
    """A table computed apart from the golden arrays: sqrt with T = 2000."""
    schedule = make_schedule("sqrt", 2000)
    np.testing.assert_allclose(schedule.betas[[0, -2]], [0.014641311, 0.55561113], rtol=1e-7)
    assert schedule.betas[-1] == 0.999
    np.testing.assert_allclose(schedule.alphas_cumprod[999], 0.29578031, rtol=1e-7)
    np.testing.assert_allclose(schedule.sqrt_one_minus_alphas_cumprod[0], 0.12100128, rtol=1e-7)
    np.testing.assert_allclose(schedule.posterior_variance[1000], 0.0012063646, rtol=1e-6)


def test_respacing_to_all_timesteps_changes_nothing():
    schedule = make_schedule("cosine", 50)
    same = respace(schedule, range(50))
    for field in dataclasses.fields(schedule):
        np.testing.assert_allclose(
            getattr(same, field.name), getattr(schedule, field.name), rtol=1e-10, atol=1e-15
        )


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 99), min_size=2))
def test_respacing_keeps_signal_and_labels(kept):
    schedule = make_schedule("sqrt", 100)
    kept = sorted(kept)
    respaced = respace(schedule, kept)
    np.testing.assert_allclose(respaced.alphas_cumprod, schedule.alphas_cumprod[kept], rtol=1e-9)
    np.testing.assert_array_equal(respaced.model_timesteps, schedule.model_timesteps[kept])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=1, max_size=4), st.integers(40, 90))
def test_sections_yield_what_was_asked(counts, num_timesteps):
    kept = parse_respacing(",".join(map(str, counts)), num_timesteps)
    assert len(kept) == sum(counts)
    assert list(kept) == sorted(set(kept))
    assert all(0 <= t < num_timesteps for t in kept)


def test_empty_respacing_keeps_all():
    assert parse_respacing("", 7) == tuple(range(7))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_schedule("sqroot", 100), "did you mean 'sqrt'"),
        (lambda: make_schedule("zzz", 100), "choose one of sqrt, cosine"),
        (lambda: make_schedule("linear", 20), "reaches beta=1"),
        (lambda: make_schedule("trunc_lin", 20), "reaches beta=1.01"),
        (lambda: make_schedule("sqrt", 1), "at least 2"),
        (lambda: make_schedule("pw_lin", 9), "at least 10"),
        (lambda: make_schedule("sqrt", 100, max_beta=1.0), "max_beta"),
        (lambda: schedule_from_betas(np.array([0.1, 0.0]), np.arange(2.0)), "every beta"),
        (lambda: respace(make_schedule("sqrt", 10), [0, 10]), "below 10"),
        (lambda: respace(make_schedule("sqrt", 10), [3, 3]), "strictly increasing"),
        (lambda: respace(make_schedule("sqrt", 10), [3]), "at least 2"),
        (lambda: parse_respacing("ten", 100), "not understood"),
        (lambda: parse_respacing("ddim7", 10), "stride"),
        (lambda: parse_respacing("60,60", 100), "section of 50"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_extract_appends_axes():
    schedule = make_schedule("sqrt", 10)
    t = jnp.array([0, 3, 9])
    values = extract(schedule.betas, t, 3)
    assert values.shape == (3, 1, 1)
    assert values.dtype == jnp.float32
    np.testing.assert_array_equal(values[:, 0, 0], schedule.betas[[0, 3, 9]].astype(np.float32))


def test_a_schedule_per_position():
    """SeqDiffuSeq gives every position its own betas: tables are [T, L] and gather to [B, L, 1]."""
    betas = np.stack([make_schedule(name, 30).betas for name in ("sqrt", "cosine")], axis=1)
    schedule = schedule_from_betas(betas, np.arange(30.0))
    for position, name in enumerate(("sqrt", "cosine")):
        np.testing.assert_array_equal(
            schedule.posterior_variance[:, position], make_schedule(name, 30).posterior_variance
        )
    assert extract(schedule.betas, jnp.array([0, 4, 5]), 3).shape == (3, 2, 1)


def test_a_schedule_is_a_pytree():
    schedule = make_schedule("sqrt", 10)

    @jax.jit
    def final_signal(schedule):
        return schedule.sqrt_alphas_cumprod[-1], schedule.log_snr[0]

    want = schedule.sqrt_alphas_cumprod[-1], schedule.log_snr[0]
    np.testing.assert_allclose(final_signal(schedule), want, rtol=1e-4)
