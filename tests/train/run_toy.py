"""A training run that the tests start as a process of its own, and let be killed.

``python -m tests.train.run_toy WORKDIR [SIGNAL STEP]`` trains or resumes; at STEP it sends
SIGNAL to itself.
"""

import os
import pathlib
import signal
import sys

import jax

from diffusion_jax.scale.checkpoint import CheckpointStore
from diffusion_jax.scale.sharding import abstract_with_shardings
from diffusion_jax.train.loop import fit
from diffusion_jax.train.metrics import JsonLines, WriteMetrics
from tests.train.toy import batch_at, setup

TOTAL_STEPS = 20
CHECKPOINT_EVERY = 5


def train(workdir, *, extra_hooks=(), checkpoint_every=CHECKPOINT_EVERY):
    run = setup()
    state = run.state
    with CheckpointStore(workdir) as store:
        if store.steps():
            state, _ = store.restore_latest(abstract_with_shardings(state, run.shardings))
        path = pathlib.Path(workdir) / "metrics.jsonl"
        with JsonLines(path, resume_step=int(state.step)) as lines:
            return fit(
                state,
                run.step,
                batch_at,
                root_key=jax.random.key(5),
                total_steps=TOTAL_STEPS,
                place=run.place,
                store=store,
                checkpoint_every=checkpoint_every,
                hooks=[WriteMetrics(lines), *extra_hooks],
            )


def send_at(name, step):
    """Return a hook that sends a signal to this process."""

    def hook(event):
        if event.step == step:
            os.kill(os.getpid(), signal.Signals[name])

    return hook


if __name__ == "__main__":
    hooks = [send_at(sys.argv[2], int(sys.argv[3]))] if len(sys.argv) > 2 else []
    result = train(sys.argv[1], extra_hooks=hooks)
    print(f"ended at {result.step} by {result.stopped_by}")
