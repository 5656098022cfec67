"""The table of a measurement of control, beside the figures of the paper."""

from collections.abc import Sequence

from diffusion_jax.control.measure import Row

# Li et al. 2022, table 2 and 3: control success in percent / lm-score, 50 samples per target, E2E.
# An lm-score is a perplexity under GPT-2, over its pieces: no column of ours compares with it.
# What counts as success there is one of our finer figures, but for spans.
PUBLISHED_MEASURES = {
    "attribute": "attributes_substring",
    "pos": "tags",
    "tree": "tree_f1",
    "length": "length_within_2",
}
PUBLISHED = {
    "attribute": {"FUDGE": (69.9, 2.83), "Diffusion-LM": (81.2, 2.55), "fine-tuned": (72.5, 2.87)},
    "pos": {"FUDGE": (27.0, 7.96), "Diffusion-LM": (90.0, 5.16), "fine-tuned": (89.5, 4.72)},
    "tree": {"FUDGE": (17.9, 3.39), "Diffusion-LM": (86.0, 3.71), "fine-tuned": (64.8, 5.72)},
    "span": {"FUDGE": (54.2, 4.03), "Diffusion-LM": (93.8, 2.53), "fine-tuned": (26.3, 2.88)},
    "length": {"FUDGE": (46.9, 3.11), "Diffusion-LM": (99.9, 2.16), "fine-tuned": (98.1, 3.84)},
}


def table(rows: Sequence[Row], *, published: bool = False) -> str:
    """Return the rows as a Markdown table, shares in percent.

    Args:
        rows: its lines.
        published: add the figures of Diffusion-LM's paper (E2E), each under the name of ours that
            it can be compared with.
    """
    head = "| task | method | success | in language | success in language | other | nats/token |"
    lines = [head, "|---|---|---:|---:|---:|---|---:|"]
    for row in rows:
        others = dict(row.measures or {})
        if row.by_control and len(row.by_control) > 1:
            others |= row.by_control
        listed = ", ".join(f"{name} {_percent(value)}" for name, value in others.items())
        error = "" if row.success_error is None else f" ± {_percent(row.success_error)}"
        lines.append(
            f"| {row.task} | {row.method} | {_percent(row.success)}{error} "
            f"| {_percent(row.in_language)} | {_percent(row.success_in_language)} | {listed} "
            f"| {'' if row.nats_per_token is None else f'{row.nats_per_token:.2f}'} |"
        )
    if published:
        lines += _published_lines(rows)
    return "\n".join(lines)


def _published_lines(rows: Sequence[Row]) -> list[str]:
    lines = []
    tasks = {row.task: row.controls[0] for row in rows if len(row.controls) == 1}
    for task, control in tasks.items():
        measure = PUBLISHED_MEASURES.get(control)
        for method, (figure, score) in PUBLISHED.get(control, {}).items():
            success, others = ("", [f"{measure} {figure}"]) if measure else (figure, [])
            others.append(f"perplexity under GPT-2 {score}")
            name = f"{method}, published (E2E)"
            lines.append(f"| {task} | {name} | {success} | | | {', '.join(others)} | |")
    return lines


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
