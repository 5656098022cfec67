"""Everything a run is told, as frozen dataclasses: checked when built, JSON both ways.

An experiment is a Python file with ``def config(scale="full") -> ExperimentConfig``; the command
line overrides any field by its dotted name (``--train.batch-size 64``). The resolved one is
stored beside the checkpoint as ``config.json`` and is what sampling reads.

Nothing here imports jax, so that ``--help`` answers at once.
"""

from diffusion_jax.config.checks import require
from diffusion_jax.config.control import AutoregressiveRunConfig, ClassifierRunConfig
from diffusion_jax.config.data import DataConfig, TokenizerConfig
from diffusion_jax.config.diffusion import DiffusionConfig
from diffusion_jax.config.experiment import ExperimentConfig
from diffusion_jax.config.guidance import GuidanceConfig
from diffusion_jax.config.sampling import SampleConfig
from diffusion_jax.config.training import MeshConfig, OptimConfig, TrainConfig

__all__ = [
    "AutoregressiveRunConfig",
    "ClassifierRunConfig",
    "DataConfig",
    "DiffusionConfig",
    "ExperimentConfig",
    "GuidanceConfig",
    "MeshConfig",
    "OptimConfig",
    "SampleConfig",
    "TokenizerConfig",
    "TrainConfig",
    "require",
]
