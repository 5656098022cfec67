"""The published systems: how to tell their checkpoints apart, and with what they were trained.

Nothing here imports jax or NumPy: the command line names the choices before it loads them.
"""

from collections.abc import Iterable
from typing import Literal

from diffusion_jax.config import (
    DataConfig,
    DiffusionConfig,
    ExperimentConfig,
    SampleConfig,
    TokenizerConfig,
    TrainConfig,
)
from diffusion_jax.errors import UserError
from diffusion_jax.models.spec import DenoiserConfig

Family = Literal["diffusion-lm", "diffuseq", "diffuseq-v2"]
EmbeddingSource = Literal["lm_head", "word_embedding"]

LENGTHS: dict[Family, int] = {"diffusion-lm": 64, "diffuseq": 128, "diffuseq-v2": 128}
"""Row length L of the published runs; no array of a checkpoint shows it."""

# How the names of arrays of some other network begin, and what that network is.
_STRANGERS = {
    "encoder_emb.": "Diffusion-LM's conditional mode (a second encoder)",
    "encoder.layer.": "Diffusion-LM's conditional mode (a second encoder)",
    "input_transformers.shared.": "SeqDiffuSeq (an encoder and a decoder)",
    "input_transformers.encoder.": "SeqDiffuSeq (an encoder and a decoder)",
    "input_blocks.": "Diffusion-LM's U-Net",
    "transformer.wte.": "GPT-2",
    "transformer.h.": "GPT-2",
    "bert.": "BERT",
}


def check_not_a_stranger(names: Iterable[str]) -> None:
    """Raise UserError where the names of arrays tell another network than the published one."""
    for name in names:
        for start, network in _STRANGERS.items():
            if name.startswith(start):
                raise UserError(
                    f"this is a checkpoint of {network}, going by {name!r}; only the Transformer "
                    "of Diffusion-LM, DiffuSeq and DiffuSeq-v2 can be converted"
                )


def choose_family(given: Family | None, mean_embed: bool, vocab_file: str) -> Family:
    """Return the family that a checkpoint belongs to.

    Diffusion-LM and DiffuSeq train the same network under the same names, so the vocabulary decides
    between them: Diffusion-LM keeps a table from words to ids (``.json``), DiffuSeq a list.

    Args:
        given: what the user says, or None.
        mean_embed: whether the checkpoint has the soft absorbing state of DiffuSeq-v2.
        vocab_file: path of the vocabulary.

    Raises:
        UserError: the checkpoint is not of the family given.
    """
    if given is None:
        if mean_embed:
            return "diffuseq-v2"
        return "diffusion-lm" if vocab_file.endswith(".json") else "diffuseq"
    if (given == "diffuseq-v2") != mean_embed:
        has = "has the array mean_embed, which only diffuseq-v2 has"
        lacks = "has no array mean_embed; without it DiffuSeq-v2 is the network of diffuseq"
        raise UserError(f"family is {given!r}, but the checkpoint {has if mean_embed else lacks}")
    return given


def published_config(
    family: Family,
    spec: DenoiserConfig,
    *,
    length: int,
    tokenizer: TokenizerConfig,
    origin: str,
    step: int,
) -> ExperimentConfig:
    """Return the configuration of a converted run: what the published program trains and samples.

    2,000 timesteps of the sqrt schedule, all of them sampled, every estimate rounded to the nearest
    embedding; ancestral steps with the small variance (Diffusion-LM) or the large one (DiffuSeq).

    Args:
        family: which system.
        spec: the network.
        length: row length L.
        tokenizer: how text becomes ids.
        origin: what was converted, for whoever reads the configuration.
        step: updates made.
    """
    pairs = family != "diffusion-lm"
    return ExperimentConfig(
        name=family,
        data=DataConfig(
            corpus=f"unknown (converted from {origin})",
            task="pair" if pairs else "text",
            length=length,
            on_long="truncate",
        ),
        tokenizer=tokenizer,
        model=spec,
        diffusion=DiffusionConfig(
            schedule="sqrt",
            timesteps=2000,
            timestep_sampler="loss_aware" if pairs else "uniform",
            absorb_rate=0.5 if family == "diffuseq-v2" else 0.0,
        ),
        # The file holds one set of parameters; no average is kept beside them.
        train=TrainConfig(steps=max(step, 1), ema_rates=()),
        sample=SampleConfig(
            sampler="ddpm",
            steps=2000,
            variance="fixed_large" if pairs else "fixed_small",
            clamp="all",
            rounding="head",
        ),
    )
