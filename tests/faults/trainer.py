"""``diffusion-jax train`` with a fault planted, as a process that the tests start.

``python -m tests.faults.trainer [--at STEP FAULT]... -- ARGUMENTS OF TRAIN``. Faults: the name of a
signal, which the process then sends itself; ``nan``, which spoils the parameters; ``sleep``, which
makes the step and every later one last a tenth of a second.
"""

import argparse
import os
import signal
import sys
import time

import jax
import jax.numpy as jnp

from diffusion_jax import training_run
from diffusion_jax.cli import main
from diffusion_jax.train.progress import ProgressReport


def plant(faults):
    """Let faults, step -> name, happen when their step is reported."""
    real_report, real_jit = ProgressReport.__call__, training_run.jit_train_step

    def report(self, event):
        real_report(self, event)
        if any(name == "sleep" and event.step >= step for step, name in faults.items()):
            time.sleep(0.1)
        name = faults.get(event.step, "")
        if name.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[name])

    def jit_train_step(*arguments, **options):
        step_function = real_jit(*arguments, **options)

        def step(state, batch, root_key):
            if faults.get(int(state.step) + 1) == "nan":
                spoilt = jax.tree.map(lambda x: x * jnp.nan, state.params)
                state = state.replace(params=spoilt)
            return step_function(state, batch, root_key)

        return step if "nan" in faults.values() else step_function

    ProgressReport.__call__ = report
    training_run.jit_train_step = jit_train_step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--at", nargs=2, action="append", default=[])
    own = sys.argv[1 : sys.argv.index("--")]
    plant({int(step): name for step, name in parser.parse_args(own).at})
    sys.exit(main(["train", *sys.argv[sys.argv.index("--") + 1 :]]))
