"""A page that shows a sentence forming: guided beside unguided, step by step."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.chain import example_keys
from diffusion_jax.control.candidate import decode
from diffusion_jax.control.compose import Wanted
from diffusion_jax.control.steer import Controller
from diffusion_jax.control.trace_page import PAGE
from diffusion_jax.control.wishes import Plan, PlanRow, plan_row, plan_wishes, stack_wishes
from diffusion_jax.guidance import latent_posterior
from diffusion_jax.rounding import most_likely_ids, token_nll
from diffusion_jax.samplers import CollectFn
from diffusion_jax.types import RoundingHead, StepInfo, StepOutput

MAX_FRAMES = 120


def record_words(head: RoundingHead) -> CollectFn:
    """Return what to collect of a step: the words of the estimate, and how sure the state is.

    Words are those of the step's estimate of x_start, rounded; a word's probability is that of the
    word given the noisy vector at its position alone, so it grows from chance to one.
    """
    posterior = latent_posterior(head.weight)

    def collect(info: StepInfo, output: StepOutput, x: jax.Array) -> Mapping[str, jax.Array]:
        ids = most_likely_ids(head, output.pred_x_start)
        noisy_head, vectors = posterior(x, info, output)
        # Rounding may leave a log-probability a little above 0.
        probability = jnp.exp(jnp.minimum(-token_nll(noisy_head, vectors, ids), 0.0))
        return {"ids": ids, "probability": probability, "t": jnp.full(ids.shape[:1], info.t)}

    return collect


def write_trace(
    controller: Controller,
    plan: Plan,
    path: str | Path,
    *,
    seed: int = 0,
    index: int = 0,
    candidate: int = 0,
) -> None:
    """Write a self-contained HTML page of one chain with and without guidance, from one noise.

    Args:
        controller: the model, its classifiers and how they steer it.
        plan: what is asked, with the layout of its template.
        path: file to write; it must not exist.
        seed: of the noise.
        index: k, of the target that the plan is for.
        candidate: i; the noise is that of candidate i of target k, see ``Controller.write``.
    """
    page = render(trace_data(controller, plan, seed=seed, index=index, candidate=candidate))
    with Path(path).open("x", encoding="utf-8") as stream:
        stream.write(page)


def trace_data(
    controller: Controller, plan: Plan, *, seed: int = 0, index: int = 0, candidate: int = 0
) -> dict[str, Any]:
    """Return what the page shows, as JSON values; see ``write_trace`` for the arguments.

    Returns:
        ``target`` (what is asked), ``steps`` (timestep of each frame), ``anchored`` (positions that
        were given) and ``chains``: name, final text, and for each frame words and probabilities.
    """
    row = plan_row(plan, controller.tokenizer, controller.length, controller.options)
    wishes = plan_wishes(
        plan, controller.classifiers, controller.tokenizer, controller.length, controller.options
    )
    stacked = stack_wishes([wishes])
    params = {kind: c.params for kind, c in controller.classifiers.items() if kind in stacked}
    everything = np.ones_like(row.noise_mask)
    key = example_keys(seed, [index], candidate + 1)[candidate:]
    guided = _run(controller, row, Wanted(stacked, params), key)
    free = row._replace(noise_mask=everything, word_mask=~everything)
    unguided = _run(controller, free, Wanted({}, {}), key)
    return {
        "target": plan.target.to_json(),
        "steps": guided["t"],
        "anchored": (~row.noise_mask).tolist(),
        "chains": [
            {"name": "guided", **guided, "anchored": (~row.noise_mask).tolist()},
            {"name": "unguided", **unguided, "anchored": (~everything).tolist()},
        ],
    }


def _run(controller: Controller, row: PlanRow, wanted: Wanted, key: jax.Array) -> dict[str, Any]:
    every = -(-controller.config.sample.steps // MAX_FRAMES)
    chain = jax.jit(controller.compose(make_collect=record_words, collect_every=every))
    batch = jax.tree.map(lambda array: jnp.asarray(array)[None], tuple(row))
    ids, noise_mask, word_mask = batch
    written = chain(controller.params, key, ids, noise_mask, wanted, word_mask)
    frames = jax.tree.map(lambda array: np.asarray(array[0]), written.collected)
    # Given positions are what was given, whatever the network thinks of them.
    given = ~np.asarray(row.noise_mask)
    shown = np.where(given, row.input_ids, frames["ids"])
    probability = np.where(given, 1.0, frames["probability"])
    final = np.asarray(written.ids[0])
    shown[-1] = final
    return {
        "t": frames["t"].tolist(),
        "text": decode(final, controller.tokenizer),
        "words": [controller.tokenizer.tokens(frame) for frame in shown],
        "probabilities": np.round(probability, 3).tolist(),
    }


def render(data: Mapping[str, Any]) -> str:
    """Return the page; the data is escaped so that no text can end its script element."""
    return PAGE.replace("__DATA__", json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"))
