"""The smallest experiments that are real: ``diffusion-jax train tests/integration/small.py``.

Scale "text" learns sentences, "pair" sentences from attributes, "v2" the same in the manner of
DiffuSeq-v2. ``write_untrained`` makes a run directory of one without training, for tests that only
need something to read.
"""

import jax
import numpy as np

from diffusion_jax.config import (
    DataConfig,
    DiffusionConfig,
    ExperimentConfig,
    OptimConfig,
    SampleConfig,
    TokenizerConfig,
    TrainConfig,
)
from diffusion_jax.experiment import complete, open_data
from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.program import Program
from diffusion_jax.workdir import Workdir

FILE = __file__


def config(scale="text"):
    pair, v2 = scale in ("pair", "v2"), scale == "v2"
    length = 56 if pair else 18
    return ExperimentConfig(
        name=f"small-{scale}",
        data=DataConfig(
            corpus="grammar:small/data_to_text" if pair else "grammar:small",
            task="pair" if pair else "text",
            size=64,
            validation_size=16,
            length=length,
        ),
        tokenizer=TokenizerConfig(kind="word", min_count=0),
        model=DenoiserConfig(
            embed_dim=8,
            hidden_dim=16,
            num_layers=1,
            num_heads=2,
            mlp_dim=16,
            max_length=length,
            time_dim=8,
            remat="none",
            mean_embed=v2,
            dtype="bfloat16" if v2 else "float32",
        ),
        diffusion=DiffusionConfig(
            timesteps=20, timestep_sampler="loss_aware", absorb_rate=0.5 if v2 else 0.0
        ),
        optim=OptimConfig(learning_rate=1e-2),
        train=TrainConfig(
            steps=20,
            batch_size=16,
            ema_rates=(0.9,),
            log_every=1,
            validate_every=10,
            preview_every=10,
            checkpoint_every=8,
        ),
        sample=SampleConfig(steps=4),
    )


def write_untrained(path, scale, asked=None):
    """Write a run directory with one checkpoint of initial parameters."""
    asked = asked or config(scale)
    tokenizer = open_data(asked).tokenizer
    resolved = complete(asked, tokenizer)
    workdir = Workdir(path)
    workdir.create(resolved, tokenizer)
    random = np.random.default_rng(0)
    # Numbers drawn by NumPy: initialising on the devices would compile a program per parameter.
    state = jax.tree.map(
        lambda leaf: random.normal(0.0, 0.6, leaf.shape).astype(leaf.dtype),
        Program.build(resolved).abstract_state(),
    )
    with workdir.checkpoints() as store:
        store.save(1, state, {"tokenizer": tokenizer.fingerprint()})
    return path
