"""Text in and out: corpora, tokenizers, packing and loading. Nothing here imports jax."""
