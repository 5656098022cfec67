"""The command line: ``diffusion-jax COMMAND``.

Each command is a module with ``main(arguments) -> exit code``, imported only when it is asked for,
so that ``--help`` answers without loading jax.
"""

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from diffusion_jax.errors import RunError, UserError
from diffusion_jax.scale.host_memory import use_memory_well
from diffusion_jax.version import __version__

COMMANDS = {
    "quickstart": "train a small model on the built-in grammar and show what it writes (5 minutes)",
    "train": "train the model of an experiment file, or resume it",
    "sample": "write new sentences with a trained model",
    "generate": "write a target for each source line with a trained sequence-to-sequence model",
    "train-classifier": "train what steers a model: attributes, parts of speech or syntax",
    "label": "tag and parse texts with spaCy and benepar, as train-classifier reads them",
    "train-ar": "train the autoregressive Transformer that judges fluency, and is the baseline",
    "score": "measure the fluency of texts: nats per token under such a Transformer",
    "control": "write texts that are as asked: attributes, length, syntax, given words",
    "infill": "fill the holes of a template, keeping the words beside them",
    "evaluate-control": "measure success and fluency of every control, beside baselines",
    "evaluate": "score generated texts against references: BLEU, ROUGE-L, diversity, MBR",
    "convert": "bring in a published or shared model, or write one to share",
    "likelihood": "bound the negative log-likelihood of a corpus under a trained model",
    "plan": "what a run would take on TPUs or GPUs that are not here: memory, traffic, days",
    "sweep": "run a family of experiments, collect their results, fit power laws",
    "describe": "show what an experiment or a checkpoint is: sizes, memory, configuration",
}
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
# What the operating system refuses because of a path that the user gave.
_BAD_PATH = (
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    FileNotFoundError,
    FileExistsError,
)


def entry(arguments: Sequence[str] | None = None) -> int:
    """Be the program: ``main``, in a process that is ours, so that its allocator is too."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and not {"-h", "--help", "--version"} & set(given):
        use_memory_well()
    return main(given)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        # Here, and not when the interpreter ends, is where a reader that has left can be met.
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        return fail(error)


def fail(error: BaseException) -> int:
    """Say what went wrong, on one line, and return the exit code; raise what is no user's doing."""
    if isinstance(error, UserError):
        return _say(str(error), EXIT_BAD_INPUT)
    if isinstance(error, RunError):
        return _say(str(error), EXIT_FAILED)
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # The reader (head, less) has enough; what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, OSError):
        return _say(str(error), EXIT_BAD_INPUT if isinstance(error, _BAD_PATH) else EXIT_FAILED)
    raise error


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    name, *rest = arguments
    if name == "--version":
        print(f"diffusion-jax {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown command {name!r}{hint} (commands: {', '.join(COMMANDS)})")
    # Orbax speaks through absl's logger about every array and, at length, about errors that it also
    # raises; our own messages are what a user needs.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    return importlib.import_module(f"diffusion_jax.cli.{name.replace('-', '_')}").main(rest)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: diffusion-jax COMMAND [options]\n\n"
        "Text generation by continuous diffusion (Diffusion-LM, DiffuSeq).\n\n"
        f"commands:\n{lines}\n\n"
        "New here? Run: diffusion-jax quickstart\n"
        "Options of a command: diffusion-jax COMMAND --help"
    )


def _say(message: str, code: int) -> int:
    print(f"diffusion-jax: error: {message}", file=sys.stderr)
    return code
