r"""Text generation by continuous diffusion: Diffusion-LM and DiffuSeq in JAX and Flax.

From a trained run to text::

    import diffusion_jax as dj

    writer = dj.Generator.from_checkpoint("runs/e2e")
    print(*writer.sample(5), sep="\n")

The names here are loaded when they are first used, so that importing the package loads no jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from diffusion_jax.errors import RunError, UserError
from diffusion_jax.version import __version__

if TYPE_CHECKING:
    from diffusion_jax.config import (
        DataConfig,
        DiffusionConfig,
        ExperimentConfig,
        MeshConfig,
        OptimConfig,
        SampleConfig,
        TokenizerConfig,
        TrainConfig,
    )
    from diffusion_jax.config_io import load_experiment
    from diffusion_jax.experiment import train as train_experiment
    from diffusion_jax.generate import Generation, Generator
    from diffusion_jax.models.spec import DenoiserConfig
    from diffusion_jax.text.grammar import load_grammar

__all__ = [
    "DataConfig",
    "DenoiserConfig",
    "DiffusionConfig",
    "ExperimentConfig",
    "Generation",
    "Generator",
    "MeshConfig",
    "OptimConfig",
    "RunError",
    "SampleConfig",
    "TokenizerConfig",
    "TrainConfig",
    "UserError",
    "__version__",
    "load_experiment",
    "load_grammar",
    "train_experiment",
]

_HOMES = {
    "DenoiserConfig": "models.spec",
    "Generation": "generate",
    "Generator": "generate",
    "load_experiment": "config_io",
    "load_grammar": "text.grammar",
    "train_experiment": "experiment",
}
# ``diffusion_jax.train`` is the room of the training loop: the function needs another name here.
_NAMES_AT_HOME = {"train_experiment": "train"}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'config')}")
    return getattr(home, _NAMES_AT_HOME.get(name, name))


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
