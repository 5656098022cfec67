"""What the sampling options compile to, and DiffuSeq-v2 from training to text."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.chain import make_chain, make_grid, make_sampler
from diffusion_jax.config import SampleConfig
from diffusion_jax.errors import UserError
from diffusion_jax.evaluate.likelihood import likelihood_bound
from diffusion_jax.experiment import _generators, complete, open_data
from diffusion_jax.program import Program
from diffusion_jax.samplers import (
    around,
    ddim,
    ddpm,
    diffuseq_v2_ancestral,
    diffuseq_v2_grid,
    dpm_solver,
    shift_time,
    singlestep_grid,
    step_grid,
)
from diffusion_jax.schedules import make_schedule
from tests.integration import small

SCHEDULE = make_schedule("sqrt", 40)
MU = jnp.asarray([1.0, -2.0])


def equal_grids(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_options_become_grids():
    equal_grids(make_grid(SampleConfig(steps=7), SCHEDULE), step_grid(SCHEDULE, 7))
    last = SCHEDULE.num_timesteps
    equal_grids(make_grid(SampleConfig(steps=last), SCHEDULE), step_grid(SCHEDULE, last))
    options = SampleConfig(
        sampler="dpm++", method="singlestep", order=3, steps=9, spacing="log_snr", time_shift=0.1
    )
    blocks = singlestep_grid(SCHEDULE, 9, order=3, spacing="log_snr")
    equal_grids(make_grid(options, SCHEDULE), shift_time(blocks, SCHEDULE, 0.1))
    for sampler in ("ddpm", "ddim", "dpm++"):
        options = SampleConfig(sampler=sampler, steps=5, spacing="quadratic")
        quadratic = step_grid(SCHEDULE, 5, spacing="quadratic")
        equal_grids(make_grid(options, SCHEDULE), quadratic)
    published = SampleConfig(sampler="dpm++", faithful_v2=True, steps=5)
    equal_grids(make_grid(published, SCHEDULE), diffuseq_v2_grid(SCHEDULE, 5))


def test_more_steps_than_a_learned_clip_leaves_are_refused():
    """In a chain, as with a clip that is fixed; in training previews make do with what is left."""
    asked = small.config("pair")
    diffusion = dataclasses.replace(asked.diffusion, clip_noise="auto")
    data = open_data(asked)
    config = complete(
        dataclasses.replace(asked, diffusion=diffusion, sample=SampleConfig(steps=20)),
        data.tokenizer,
    )
    assert config.diffusion.timesteps == 20
    program = Program.build(config)
    state = program.make_state(jax.random.key(0))
    left = program.chain_schedule(state.params, ()).num_timesteps
    assert 1 < left < 20
    with pytest.raises(UserError, match=rf"sample.steps = 20 .* at most {left}: .* learned"):
        dj.Generator.build(config, data.tokenizer, state.params)
    fewer = dataclasses.replace(config, sample=SampleConfig(steps=left))
    writer = dj.Generator.build(fewer, data.tokenizer, state.params)
    with pytest.raises(UserError, match=f"at most {left}"):
        writer.with_sampling(steps=left + 1)
    assert _generators(program, data.tokenizer)(state).config.sample.steps == left


V2 = {"faithful_v2": True, "variance": "fixed_large"}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, around(ddpm(), MU)),
        ({"variance": "fixed_large"}, around(ddpm(variance="fixed_large"), MU)),
        ({"sampler": "ddim", "eta": 0.5}, around(ddim(eta=0.5), MU)),
        ({"sampler": "dpm++", "order": 3}, around(dpm_solver(order=3), MU)),
        (
            {"sampler": "dpm++", "method": "singlestep"},
            around(dpm_solver(method="singlestep"), MU),
        ),
        ({"sampler": "dpm++", "faithful_v2": True}, dpm_solver(faithful_v2=True)),
        (
            V2,
            diffuseq_v2_ancestral(MU, variance="fixed_large"),
        ),
    ],
)
def test_options_become_samplers(options, wanted):
    ours = make_sampler(SampleConfig(**options), MU)
    assert ours.needs_noise == wanted.needs_noise
    np.testing.assert_array_equal(ours.start_mean, wanted.start_mean)
    x, first, second = jax.random.normal(jax.random.key(0), (3, 1, 4, 2))
    steps = [jax.tree.map(lambda field, i=i: field[i], step_grid(SCHEDULE, 5)) for i in (0, 1)]
    if options.get("method") == "singlestep":
        steps[1] = steps[1]._replace(history=np.int32(1))
    ends = []
    for sampler in (ours, wanted):
        state = sampler.init(x)
        for estimate, info in zip((first, second), steps):
            state, output = sampler.step(state, estimate, info, jnp.ones_like(x))
        ends.append((state.x_t, output.sigma))
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.fixture(scope="module")
def v2():
    asked = small.config("v2")
    data = open_data(asked)
    return Program.build(complete(asked, data.tokenizer)), data


@pytest.mark.slow
def test_training_moves_the_absorbing_state(v2):
    """By its penalty, and by the noise around it; absorbed tokens change the loss."""
    program, data = v2
    params = program.make_state(jax.random.key(0)).params
    rows = jax.tree.map(jnp.asarray, data.train.rows(np.arange(8)))
    t = jnp.arange(8) * 2 + 4

    def loss(params, options):
        other = dataclasses.replace(program.config.diffusion, **options)
        build = Program.build(dataclasses.replace(program.config, diffusion=other)).loss
        return jnp.mean(build(params, jax.random.key(1), rows, t, None).total())

    gradients = {}
    for name, options in {
        "as configured": {},
        "no penalty": {"mean_embed_penalty": 0.0},
        "no absorption": {"absorb_rate": 0.0},
    }.items():
        gradients[name] = jax.jit(jax.grad(lambda p, o=options: loss(p, o)))(params)["mean_embed"]
    assert all(np.linalg.norm(g) > 1e-4 for g in gradients.values())
    penalty = gradients["as configured"] - gradients["no penalty"]
    direction = params["mean_embed"] / jnp.linalg.norm(params["mean_embed"])
    np.testing.assert_allclose(penalty, 0.01 * direction, rtol=1e-2, atol=1e-5)
    assert np.abs(gradients["as configured"] - gradients["no absorption"]).max() > 1e-4


@pytest.mark.slow
def test_the_bound_is_that_of_the_moved_process(v2):
    """Around mu it is the ordinary bound of the model that lives in x - mu."""
    program, data = v2
    model, mu = program.model, jnp.full(8, 3.0)
    centre = mu[None, None]
    params = program.make_state(jax.random.key(0)).params | {"mean_embed": mu}
    # A schedule that leaves so much signal that the prior shows where it is centred.
    schedule = make_schedule("cosine", 20, max_beta=0.2)

    def denoise(params, x_t, time, self_cond=None):
        return model.denoise(params, x_t + centre, time) - centre

    moved = model._replace(embed=lambda p, ids: model.embed(p, ids) - centre, denoise=denoise)
    ids = jnp.asarray(data.validation.rows(np.arange(4))["input_ids"])

    def bound(model, mean_embed):
        options = {"num_timesteps": 4, "mean_embed": mean_embed}
        return likelihood_bound(jax.random.key(1), model, params, schedule, ids, **options)

    ours, theirs, unmoved = jax.jit(
        lambda: (bound(model, mu), bound(moved, None), bound(model, None))
    )()
    for term in ("prior", "diffusion"):
        # bfloat16 products, of latents that were rounded once more.
        np.testing.assert_allclose(getattr(ours, term), getattr(theirs, term), rtol=1e-3)
        assert np.max(np.abs(getattr(ours, term) / getattr(unmoved, term) - 1)) > 0.03, term


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small.write_untrained(tmp_path_factory.mktemp("v2") / "run", "v2")


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "dpm++", "order": 3, "steps": 5, "time_shift": 0.1},
        pytest.param({**V2, "steps": 5}, marks=pytest.mark.slow),
        pytest.param({"sampler": "dpm++", "faithful_v2": True, "steps": 5}, marks=pytest.mark.slow),
    ],
)
def test_generation(run, options):
    writer = dj.Generator.from_checkpoint(run, **options)
    sources = [pair.src for pair in dj.load_grammar("small").data_to_text(5, 3, "test")]
    texts = [generation.candidates[0] for generation in writer.generate(sources)]
    assert all(texts)
    assert texts[1:2] == [
        generation.candidates[0] for generation in writer.generate(sources[1:2], first_index=1)
    ]


def test_a_published_chain_takes_no_guide():
    options = SampleConfig(**V2)
    with pytest.raises(UserError, match="no guidance"):
        make_chain(None, None, SCHEDULE, options, make_guidance=lambda *a: None)
