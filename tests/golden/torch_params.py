"""Load the parameters that the original programs were run with."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.convert.names import from_original, infer_spec
from diffusion_jax.models.base import Model
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.models.transformer import transformer_denoiser
from diffusion_jax.types import Params

DATA = Path(__file__).parent / "data"


def original_arrays(arrays: dict, prefix: str = "params/") -> dict[str, np.ndarray]:
    """Return the arrays under ``prefix``, by original name."""
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


def load_spec(npz_path: str | Path) -> DenoiserConfig:
    with np.load(npz_path) as arrays:
        config = json.loads(str(arrays["config"]))
        return infer_spec(original_arrays(dict(arrays)), num_heads=config["heads"])


def load_params(npz_path: str | Path) -> tuple[Model, Params]:
    """Return the network of a ``*_model.npz`` file and its parameters, as jax arrays."""
    spec = load_spec(npz_path)
    with np.load(npz_path) as arrays:
        params = from_original(original_arrays(dict(arrays)), spec)
    return transformer_denoiser(spec), jax.tree.map(jnp.asarray, params)
