"""The notebooks run from top to bottom, hold no outputs and stay readable; no Jupyter is needed."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest

from diffusion_jax.quickstart import NUM_SAMPLES, quickstart_config

COLAB = Path(__file__).parents[2] / "colab"
NOTEBOOKS = sorted(COLAB.glob("*.ipynb"))
MAX_LINES = 15


def load_build():
    spec = importlib.util.spec_from_file_location("colab_build", COLAB / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(path: Path, kind: str) -> list[dict]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    """Return the Python of a code cell: magics and shell lines are IPython's."""
    return "".join(line for line in cell["source"] if not line.startswith(("%", "!")))


def executed(path: Path) -> list[str]:
    """Return the code that a run of the notebook executes, cell by cell."""
    return [
        source(cell)
        for cell in cells(path, "code")
        if "skip-execution" not in cell["metadata"].get("tags", [])
    ]


def run(path: Path) -> dict:
    """Execute the code cells in order in one namespace, and return it."""
    namespace = {"__name__": "__main__"}
    for number, code in enumerate(executed(path)):
        exec(compile(code, f"{path.name}[{number}]", "exec"), namespace)
    return namespace


def names_called(code: str) -> list[str]:
    calls = (node.func for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
    return [ast.unparse(function) for function in calls]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestStored:
    def test_holds_no_outputs(self, path):
        for cell in cells(path, "code"):
            assert cell["outputs"] == []
            assert cell["execution_count"] is None

    def test_cells_are_short(self, path):
        lengths = [len(cell["source"]) for cell in cells(path, "code")]
        assert max(lengths) <= MAX_LINES

    def test_is_what_its_twin_says(self, path):
        twin = path.with_suffix(".py").read_text(encoding="utf-8")
        assert json.loads(path.read_text(encoding="utf-8")) == load_build().notebook_of(twin)

    def test_begins_with_title_cost_and_badge(self, path):
        first = "".join(cells(path, "markdown")[0]["source"])
        assert first.startswith("# ")
        assert "minutes" in first
        assert f"/colab/{path.name})" in first

    def test_only_the_install_cell_is_skipped(self, path):
        skipped = [
            "".join(cell["source"])
            for cell in cells(path, "code")
            if "skip-execution" in cell["metadata"].get("tags", [])
        ]
        assert len(skipped) == 1
        assert "%pip install" in skipped[0]
        assert "jax[" not in skipped[0], "an install that names jax replaces the runtime's own"

    def test_makes_each_key_once(self, path):
        calls = [name for code in executed(path) for name in names_called(code)]
        assert not [name for name in calls if name.endswith("PRNGKey") or ".random." in name]


def test_quickstart_repeats_the_command(monkeypatch):
    monkeypatch.delenv("SMOKE", raising=False)
    chosen = {}
    (sizes,) = (code for code in executed(COLAB / "01_quickstart.ipynb") if "\nSTEPS = " in code)
    exec(sizes, chosen)
    text, pairs = (quickstart_config(task, "small") for task in ("text", "seq2seq"))
    assert chosen["STEPS"] == text.train.steps
    assert chosen["PAIR_STEPS"] == pairs.train.steps
    assert chosen["LAYERS"] == text.model.num_layers
    assert chosen["SENTENCES"] == text.data.size
    assert chosen["SAMPLES"] == NUM_SAMPLES
    assert chosen["SAMPLING_STEPS"] == text.sample.steps


def test_a_twin_becomes_cells():
    twin = '# %% [markdown]\n# # Title\n#\n# text\n\n# %% tags=["a"]\n# %pip install x\ny = 1\n\n'
    markdown, code = load_build().cells_of(twin)
    assert markdown["source"] == ["# Title\n", "\n", "text"]
    assert code["source"] == ["%pip install x\n", "y = 1"]
    assert code["metadata"] == {"tags": ["a"]}


def test_text_before_the_first_cell_is_refused():
    with pytest.raises(ValueError, match="before the first"):
        load_build().cells_of("import os\n# %%\n")


@pytest.mark.slow
def test_quickstart_runs_on_any_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMOKE", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    left = run(COLAB / "01_quickstart.ipynb")
    assert len(left["texts"]) == left["SAMPLES"]
    assert left["result"].fit.step == left["STEPS"]
    assert left["pairs"].fit.step == left["PAIR_STEPS"]
    printed = capsys.readouterr().out
    assert "samples are sentences of the language" in printed
    assert "name : " in printed, "no source of the pairs was shown"
