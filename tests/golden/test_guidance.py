"""The guidance functions of Diffusion-LM, task by task, and a whole guided chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.guidance import adagrad_guidance, fixed_embeddings, on_latent, weighted_sum
from diffusion_jax.keys import per_example
from diffusion_jax.models.base import bind
from diffusion_jax.rounding import most_likely_ids
from diffusion_jax.samplers import clamp_to_embeddings, ddim, sample, step_grid
from diffusion_jax.schedules import make_schedule
from diffusion_jax.types import StepInfo, StepOutput
from tests.golden.torch_params import DATA, load_params

with np.load(DATA / "guidance.npz") as arrays:
    GOLDEN = dict(arrays)
SCHEDULE = make_schedule("sqrt", 20)
TIME_UNIT = 1000 / 20  # labels per index of this schedule
IGNORED = -100
STRIDE = 4  # every fourth state of the chain is recorded, counted back from the last


@pytest.fixture(scope="module")
def network():
    return load_params(DATA / "dlm_model.npz")


def toy_classifier(labels, embed_labels=None):
    """Return the recorded classifier's log-probability of ``labels`` [B, N], mean per position."""

    def log_prob(x, time):
        t_c = time[:, None, None] / TIME_UNIT
        if embed_labels is not None:
            x = jnp.concatenate([x, embed_labels], axis=1)
        shift = (t_c / 200) * jnp.asarray(GOLDEN["b1"])[None, None, :]
        log_probs = jax.nn.log_softmax(jnp.tanh(x @ GOLDEN["W1"] + shift) @ GOLDEN["W2"])
        kept = labels != IGNORED
        chosen = jnp.take_along_axis(log_probs, jnp.where(kept, labels, 0)[..., None], axis=-1)
        return jnp.sum(jnp.where(kept, chosen[..., 0], 0.0), axis=-1) / jnp.sum(kept, axis=-1)

    return on_latent(log_prob)


def published(objective, fluency_weight):
    """Return the guide with the originals' mean over the batch of 2, where ours is a sum.

    It matters only where a gradient is so small that Adagrad's 1e-10 is felt beside it.
    """
    return adagrad_guidance(weighted_sum((0.5, objective)), fluency_weight=fluency_weight / 2)


def apply_at(guide, t, sample, mean, sigma):
    """Apply a guide to the state that a step from index ``t`` left behind."""
    index = SCHEDULE.num_timesteps - 1 - t
    info = StepInfo(*(jnp.asarray(field[index]) for field in step_grid(SCHEDULE)))
    x = jnp.asarray(sample)
    output = StepOutput(pred_x_start=jnp.full_like(x, jnp.nan), mean=jnp.asarray(mean), sigma=sigma)
    keys = per_example(jax.random.key(0), jnp.arange(len(x)))
    return jax.jit(guide.apply)(keys, x, guide.init(x), info, output)[0]


@pytest.mark.parametrize(
    ("case", "t", "fluency_weight"),
    [
        (f"{task}/t{t}", t, weight)
        for task, weight in (("tree", 0.01), ("pos", 1e-4))
        for t in (15, 10, 9, 0)
    ]
    + [("tree_sigma0/t15", 15, 0.01)],
)
def test_classifier_tasks(case, t, fluency_weight):
    guide = published(toy_classifier(GOLDEN["labels"]), fluency_weight)
    sigma = 0.0 if "sigma0" in case else GOLDEN["sigma"][0, 0, 0]
    x = apply_at(guide, t, GOLDEN["sample"], GOLDEN["mean"], jnp.float32(sigma))
    np.testing.assert_allclose(x, GOLDEN[f"{case}/out"], rtol=0, atol=2e-6)
    if t >= 10:
        assert GOLDEN[f"{case}/classifier_t"][0] == t - 1
        assert np.abs(x - GOLDEN["sample"]).min() > 0.09


def test_attribute(network):
    model, params = network
    labels = GOLDEN["attribute/label_ids"].copy()
    embed_labels = model.head(params).weight[labels[:, 64:]]
    # The program hides the first attribute word, too.
    labels[:, :65] = IGNORED
    objective = toy_classifier(labels, embed_labels)
    guide = published(objective, 0.01)
    x = apply_at(
        guide,
        int(GOLDEN["attribute/t"]),
        GOLDEN["attribute/sample"],
        GOLDEN["attribute/mean"],
        jnp.float32(GOLDEN["attribute/sigma"][0, 0, 0]),
    )
    wrong = np.abs(x - GOLDEN["attribute/out"]) > 2e-6
    assert wrong.mean() < 0.002


@pytest.mark.parametrize("t", [15, 9])
def test_length(network, t):
    model, params = network
    known_mask = ~GOLDEN["length/partial_mask"]
    objective = fixed_embeddings(
        bind(model, params), jnp.asarray(GOLDEN["length/tgt_embs"]), jnp.asarray(known_mask)
    )
    guide = published(objective, 0.01)
    sigma = jnp.float32(GOLDEN["sigma"][0, 0, 0])
    x = apply_at(guide, t, GOLDEN["sample"], GOLDEN["mean"], sigma)
    np.testing.assert_allclose(x, GOLDEN[f"length/t{t}/out"], rtol=0, atol=2e-6)


def test_chain(network):
    model, params = network
    head = model.head(params)
    result = jax.jit(
        lambda key: sample(
            key,
            bind(model, params),
            ddim(eta=1.0),
            step_grid(SCHEDULE),
            GOLDEN["chain/x_T"].shape,
            x_init=jnp.asarray(GOLDEN["chain/x_T"]),
            clamp=clamp_to_embeddings(head.weight),
            guidance=published(toy_classifier(GOLDEN["labels"]), 0.01),
            noise=jnp.asarray(GOLDEN["chain/noise"]),
            collect=lambda info, output, x: (x, output.pred_x_start),
            collect_every=STRIDE,
        )
    )(jax.random.key(0))
    x, pred_x_start = result.collected
    for ours, name in ((x, "x"), (pred_x_start, "pred_xstart")):
        error = GOLDEN[f"chain/{name.removesuffix('_xstart')}_err"]
        np.testing.assert_allclose(ours, GOLDEN[f"chain/{name}"], rtol=0, atol=1e-5 + 4 * error)
    np.testing.assert_array_equal(most_likely_ids(head, result.x_start), GOLDEN["chain/final_ids"])
