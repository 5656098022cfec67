"""One measurement, one JSON line."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import diffusion_jax


def record(row: Mapping[str, Any], output: Path | None) -> None:
    """Print a row with what made it, and append it to the file where there is one."""
    line = json.dumps(
        {
            **row,
            "machine": platform.machine(),
            "jax": jax.__version__,
            "diffusion_jax": diffusion_jax.__version__,
        }
    )
    print(line, flush=True)
    if output:
        with output.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
