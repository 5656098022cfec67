"""The training losses and their gradients, on the originals' parameters and random draws."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.convert.names import to_original
from diffusion_jax.losses import Draws, diffusion_loss, prediction_nll_loss, variational_loss
from diffusion_jax.rounding import logits_l2
from diffusion_jax.schedules import make_schedule
from tests.golden.torch_params import DATA, load_params, load_spec

# The originals differ from their own float64 run by about 4e-7 in a loss of 3.
TOLERANCE = 1e-5
FIRST_CASE = {"dlm_loss": "e2e_xstart", "dseq_loss": "xstart", "dseq2_loss": "plain"}


class Case:
    """One recorded loss: its inputs, and the numbers that it must give."""

    def __init__(self, file: str, name: str):
        with np.load(DATA / f"{file}.npz") as arrays:
            self.arrays = dict(arrays)
        self.name = name
        model_path = DATA / (file.replace("loss", "model") + ".npz")
        self.model, self.params = load_params(model_path)
        self.spec = load_spec(model_path)
        self.schedule = make_schedule("sqrt", int(self.arrays["T"]))
        self.ids = jnp.asarray(self.arrays["ids"], jnp.int32)
        self.t = jnp.asarray(self.arrays["t"], jnp.int32)
        everything = np.ones(self.ids.shape)
        self.mask = jnp.asarray(self.arrays.get("mask", everything), bool)
        first = FIRST_CASE[file]
        absorb_mask = self.arrays.get(f"{name}/draw2_absorb_mask")
        self.draws = Draws(
            x_start_noise=jnp.asarray(self.arrays[f"{first}/draw0_x0_noise"]),
            q_noise=jnp.asarray(self.arrays[f"{first}/draw1_q_noise"]),
            absorb_mask=None if absorb_mask is None else jnp.asarray(absorb_mask, bool),
        )

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[f"{self.name}/{key}"]

    def loss(self, params, loss_fn=diffusion_loss, **options):
        return loss_fn(
            *(None, self.model, params, self.schedule, self.ids, self.mask, self.t),
            draws=self.draws,
            **options,
        )

    def check(self, per_example, rtol: float = TOLERANCE, **wanted: str):
        """Compare terms, total and gradients with what was recorded.

        Args:
            per_example: parameters -> terms, or totals [B].
            rtol: tolerance of a gradient, relative to its largest element.
            wanted: attribute of the terms -> recorded array.
        """

        def mean_total(params):
            terms = per_example(params)
            total = terms if isinstance(terms, jax.Array) else terms.total()
            return jnp.mean(total), (total, terms)

        gradients, (total, terms) = jax.jit(jax.grad(mean_total, has_aux=True))(self.params)
        for attribute, recorded in wanted.items():
            close(getattr(terms, attribute), self[recorded])
        close(total, self["loss"])

        named = to_original(gradients, self.spec)
        for name, norm in zip(json.loads(str(self["grad_names"])), self["grad_norms"]):
            # Zero in exact arithmetic: softmax does not see a constant added to every score.
            atol = 1e-6 * self["grad_norms"].max() if name.endswith("self.key.bias") else 1e-6
            np.testing.assert_allclose(
                np.linalg.norm(named[name]), norm, rtol=rtol, atol=atol, err_msg=name
            )
        prefix = f"{self.name}/grad/"
        for key in [key for key in self.arrays if key.startswith(prefix)]:
            want = self.arrays[key]
            np.testing.assert_allclose(
                named[key.removeprefix(prefix)],
                want,
                atol=rtol * np.abs(want).max(),
                rtol=0,
                err_msg=key,
            )


def close(got: jax.Array, want: np.ndarray, rtol: float = TOLERANCE):
    np.testing.assert_allclose(got, want, rtol=rtol, atol=TOLERANCE)


def nll_of_logits_l2(head, x, input_ids):
    log_probs = jax.nn.log_softmax(logits_l2(head, x))
    return -jnp.take_along_axis(log_probs, input_ids[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("e2e_xstart", {}),
        ("e2e_eps", {"parameterization": "eps"}),
        pytest.param(
            *("e2e_xstart_logits_mode2", {"token_nll_fn": nll_of_logits_l2}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_diffusion_lm(name, options):
    case = Case("dlm_loss", name)
    case.check(lambda p: case.loss(p, **options), mse="mse", rounding_nll="token_loss0")


def test_diffusion_lm_variational_bound():
    """Totals reach 7e5 at t = 0, where both variances are small."""
    case = Case("dlm_loss", "e2e_kl_sigma_large")
    case.check(lambda p: case.loss(p, variational_loss))


@pytest.mark.slow
def test_diffusion_lm_words_from_the_prediction():
    case = Case("dlm_loss", "e2e_simple")
    noise = jnp.asarray(case["draw0_q_noise"])
    inputs = (case.schedule, case.ids, case.t)
    case.check(lambda p: prediction_nll_loss(None, case.model, p, *inputs, q_noise=noise))


def test_diffuseq():
    case = Case("dseq_loss", "xstart")
    case.check(case.loss, mse="mse", rounding_nll="token_loss0")


@pytest.mark.slow
def test_diffuseq_eps():
    """The original regresses ``x_start`` and yet reads the output as eps where t = 0."""
    case = Case("dseq_loss", "eps")

    def total(params):
        read_as_eps = case.loss(params, parameterization="eps").total()
        return jnp.where(case.t == 0, read_as_eps, case.loss(params).total())

    case.check(total)


@pytest.mark.parametrize(("name", "rtol"), [("xstart", TOLERANCE), ("eps", 1e-4)])
def test_diffuseq_logged_nll_is_the_rounding_term_of_the_prediction_on_the_target(name, rtol):
    # Read as eps at t = T - 1, an output is divided by 4.5e-4, which magnifies its error.
    case = Case("dseq_loss", name)
    options = {"nll_input": "prediction", "positions": "target"}
    if name == "eps":
        options["parameterization"] = "eps"
    terms = jax.jit(lambda p: case.loss(p, **options))(case.params)
    close(terms.rounding_nll, case["nll"], rtol)


@pytest.mark.parametrize(
    "name", ["plain", pytest.param("mean_embed", marks=pytest.mark.slow), "mean_embed_denoise"]
)
def test_diffuseq_v2(name):
    case = Case("dseq2_loss", name)

    def loss(params):
        return case.loss(params, mean_embed=None if name == "plain" else params["mean_embed"])

    case.check(loss, mse="mse", rounding_nll="token_loss0")
