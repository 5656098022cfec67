"""What each device holds of a training step, compiled: ``python -m benchmarks.sharding``.

Nothing is run: the training step of BERT-base is compiled for fake CPU devices. Appends JSON lines
and writes a table to ``benchmarks/results``.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.jax_programs import build_program
from benchmarks.sizes import BERT_BASE
from diffusion_jax.scale.collectives import collectives
from diffusion_jax.scale.mesh import make_mesh
from diffusion_jax.scale.sharding import jit_train_step
from diffusion_jax.training_run import place_learner

RESULTS = Path(__file__).parent / "results"
DEVICES = 8
MESHES = ((8, 1, 1), (4, 2, 1), (2, 4, 1), (1, 8, 1), (1, 1, 4), (1, 2, 4))
MEGABYTE = 2**20


def main() -> None:
    """Compile for every mesh, print and write the table."""
    jax.config.update("jax_num_cpu_devices", DEVICES)
    rows = [measure(*sizes) for sizes in MESHES]
    lines = [
        f"# State per device: BERT-base, batch {BERT_BASE.batch_size}, jax {jax.__version__}",
        "",
        "Parameters, one moving average and two moments, float32; compiled memory analysis.",
        "",
        "| data | fsdp | tensor | state MB | 1 / share | temporary MB | collectives | sent MB |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        share = rows[0]["state_mb"] / row["state_mb"]
        lines.append(
            f"| {row['data']} | {row['fsdp']} | {row['tensor']} | {row['state_mb']:.1f} "
            f"| {share:.2f} | {row['temporary_mb']:.0f} | {row['collectives']} "
            f"| {row['sent_mb']:.0f} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    (RESULTS / "sharding.md").write_text(text, encoding="utf-8")
    with (RESULTS / "sharding.jsonl").open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def measure(data: int, fsdp: int, tensor: int) -> dict[str, float | str]:
    """Compile the training step for one mesh and read what it plans for each device."""
    mesh = make_mesh(data, fsdp, tensor, devices=jax.devices()[: data * fsdp * tensor])
    placed = place_learner(build_program(BERT_BASE).learner(), mesh)
    shape = (BERT_BASE.batch_size, BERT_BASE.length)
    batch = {
        "input_ids": jax.ShapeDtypeStruct(shape, jnp.int32),
        "noise_mask": jax.ShapeDtypeStruct(shape, jnp.bool_),
    }
    step = jit_train_step(placed.learner.train_step, mesh, placed.shardings)
    compiled = step.lower(placed.abstract, batch, jax.random.key(0)).compile()
    plan, said = compiled.memory_analysis(), collectives(compiled.as_text())
    return {
        "jax": jax.__version__,
        "data": data,
        "fsdp": fsdp,
        "tensor": tensor,
        "state_mb": plan.alias_size_in_bytes / MEGABYTE,
        "temporary_mb": plan.temp_size_in_bytes / MEGABYTE,
        "collectives": sum(item.times for item in said),
        "sent_mb": sum(item.times * item.sent_bytes for item in said) / MEGABYTE,
    }


if __name__ == "__main__":
    main()
