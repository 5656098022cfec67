"""``diffusion-jax train`` as a process of its own, with a fault planted, started quickly.

The processes are forked from a server that has imported everything but has not touched a device:
what is left of a start is tracing, and compiled programs come from a cache on disk.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from multiprocessing import forkserver
from pathlib import Path

from diffusion_jax.text.grammar import load_grammar
from tests.compiling import XLA_FLAGS

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "tests" / "integration" / "small.py"
_PRELOAD = ["tests.faults.preload"]
CLOCKS = ("step_seconds", "data_wait_seconds", "tokens_per_second")
# One process, no text in between: what the tests here are about.
PLAIN = ("--train.preview-every", "0", "--train.validate-every", "0")


def plant(faults):
    """Let faults, step -> name, happen when their step is reported.

    A fault is the name of a signal, which the process then sends itself; ``nan``, which spoils the
    parameters before the step; or ``sleep``, which makes this and every later step last longer.
    """
    import jax
    import jax.numpy as jnp

    from diffusion_jax import training_run
    from diffusion_jax.train.progress import ProgressReport

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


def _run(arguments, faults, log, limit):
    """Be the trainer: everything it says goes to the log."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    code = 70
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if limit is not None:
            limit()
        plant(faults)
        from diffusion_jax.cli import main

        code = main(["train", *arguments])
    except BaseException:
        traceback.print_exc()
    # Leave as a program does, so that JAX and Orbax end their threads.
    sys.stdout.flush()
    sys.exit(code)


def metrics(workdir):
    """Read the metrics of a run without what depends on the clock."""
    lines = (Path(workdir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKS} for line in lines]


def write_corpus(path):
    """Write 64 sentences to a text file, which is opened faster than a grammar."""
    sentences = load_grammar("small").corpus(0, 64, "train")
    path.write_text("".join(sentence.text + "\n" for sentence in sentences), encoding="utf-8")
    return path


class Trainers:
    """Starts trainers in an environment of their own."""

    def __init__(self, cache, **environment):
        """Start the server, once: later instances share the first one's environment.

        Args:
            cache: directory of compiled programs.
            **environment: more variables.
        """
        variables = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": XLA_FLAGS,
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **environment,
        }
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)
        before = dict(os.environ)
        os.environ.update(variables)
        forkserver.ensure_running()
        os.environ.clear()
        os.environ.update(before)

    def start(self, workdir, *more, log, faults=None, scale="text", limit=None):
        """Start a trainer; ``log`` is where it writes, ``faults`` as for ``plant``."""
        arguments = [str(EXPERIMENT), "--scale", scale, "-w", str(workdir), *map(str, more)]
        process = self._context.Process(
            target=_run, args=(arguments, faults or {}, str(log), limit)
        )
        process.start()
        return process

    def run(self, workdir, *more, log, seconds=900, **options):
        """Run a trainer to its end; return its exit code (minus the signal) and what it wrote."""
        process = self.start(workdir, *more, log=log, **options)
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"no end after {seconds} s:\n{Path(log).read_text()}")
        return process.exitcode, Path(log).read_text()
