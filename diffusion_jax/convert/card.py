"""The model card: what a shared model is, for a reader who finds it without us."""

from diffusion_jax.config import ExperimentConfig

_TASKS = {
    "text": "writes single texts",
    "pair": "writes a target text for each source text",
}
_COMMANDS = {
    "text": "diffusion-jax sample runs/model --num 10",
    "pair": "diffusion-jax generate runs/model --input sources.txt",
}


def model_card(
    config: ExperimentConfig, file_name: str, *, num_parameters: int, step: int, weights: str
) -> str:
    """Return a model card: Markdown with a YAML head.

    The licence is left to whoever publishes the model: it depends on the data.

    Args:
        config: the configuration of the run, complete.
        file_name: name of the safetensors file.
        num_parameters: how many numbers it holds.
        step: updates made.
        weights: which parameters these are: "params", or "ema RATE".
    """
    model, diffusion, sample = config.model, config.diffusion, config.sample
    rows = {
        "parameters": f"{num_parameters:,} (float32)",
        "weights": weights,
        "updates": f"{step:,}",
        "network": f"Transformer, {model.num_layers} layers, width {model.hidden_dim}, "
        f"{model.num_heads} heads, {model.norm}-LayerNorm",
        "word vectors": f"{model.vocab_size:,} x {model.embed_dim}",
        "row length": f"{config.data.length} tokens",
        "tokenizer": config.tokenizer.kind,
        "trained on": config.data.corpus,
        "noise": f"{diffusion.schedule} schedule, {diffusion.timesteps:,} timesteps",
        "sampling": f"{sample.sampler}, {sample.steps:,} steps, clamp {sample.clamp}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
library_name: diffusion_jax
pipeline_tag: text-generation
tags:
- text-diffusion
- {config.name}
---

# {config.name}

A continuous text diffusion model that {_TASKS[config.data.task]}.

| | |
|---|---|
{table}

## Use

```
pip install "diffusion-jax[share]"
diffusion-jax convert {file_name} --workdir runs/model
{_COMMANDS[config.data.task]}
```

`tokenizer/` must lie beside the file. The whole configuration is in the file's metadata.
"""
