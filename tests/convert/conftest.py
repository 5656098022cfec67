import json
from pathlib import Path

import numpy as np
import pytest

from tests.convert.torch_files import write_state_dict
from tests.golden.torch_params import DATA, original_arrays

VOCAB_SIZE = 97


@pytest.fixture
def vocab_json(tmp_path) -> Path:
    """Diffusion-LM's table from words to ids, as large as the golden networks' vocabulary."""
    words = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(VOCAB_SIZE - 4))]
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({word: i for i, word in enumerate(words)}))
    return path


@pytest.fixture
def word_list(tmp_path) -> Path:
    """A list of words, as DiffuSeq reads one; the special tokens are not in it."""
    path = tmp_path / "words.txt"
    path.write_text("".join(f"w{i}\n" for i in range(VOCAB_SIZE - 4)))
    return path


@pytest.fixture
def write_network(tmp_path):
    """Return a function that writes a golden network as a .pt file, with some arrays changed."""

    def write(name: str = "dlm_model", file: str = "ema_0.9999_000042.pt", **changes) -> Path:
        with np.load(DATA / f"{name}.npz") as golden:
            arrays = original_arrays(dict(golden))
        arrays |= {key.replace("__", "."): value for key, value in changes.items()}
        kept = {key: value for key, value in arrays.items() if value is not None}
        return write_state_dict(tmp_path / file, kept)

    return write
