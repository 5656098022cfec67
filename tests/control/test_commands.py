"""The commands: what is refused with exit code 2, and what a line of output holds."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from diffusion_jax import classifier_training
from diffusion_jax.cli import control, evaluate_control, main
from diffusion_jax.config import ClassifierRunConfig, GuidanceConfig
from diffusion_jax.control.candidate import Candidate
from diffusion_jax.control.steer import Controller
from diffusion_jax.control.wishes import Plan
from diffusion_jax.errors import UserError
from diffusion_jax.models.shape import ClassifierConfig
from diffusion_jax.text.control_targets import Target, read_targets
from diffusion_jax.workdir import Workdir

KEEP = ["--keep", "the ___ ."]
BAD = {
    "nothing asked": [],
    "not field=value": ["--attribute", "food"],
    "no classifier": ["--attribute", "food=thai"],
    "unknown tag": ["--pos", "DET NUON"],
    "unbalanced tree": ["--tree", "(S (NP a"],
    "crossing spans": ["--span", "1:3=NP", "--span", "2:5=PP"],
    "length beyond the model": ["--length", "40"],
    "contradiction": ["--length", "5", "--pos", "DET " * 9],
    "word outside": ["--keep", "the thay ___ ."],
    "no hole": ["--keep", "the pub ."],
    "too many words": ["--keep", "the ___ .", "--length", "2"],
    "no such classifier": ["--length", "5", "--classifier", "nowhere"],
    "targets twice": ["--length", "5", "--targets", "t.jsonl"],
    "no such targets": ["--targets", "nowhere.jsonl"],
    "keywords that do not fit": ["--length", "1", "--keyword", "the", "--keyword", "is"],
    "an empty keyword": ["--keyword", " "],
    "a weight of nothing": ["--length", "5", "--guidance.pos-weight", "3"],
    "bounds without room": ["--length", "5", "--min-hole", "3", "--max-hole", "2"],
    "no number": ["--span", "\u00b2:3=NP"],
    "keywords beyond the holes": [*KEEP, "--max-hole", "1", "--keyword", "is", "--keyword", "thai"],
    "a target that is not traced": ["--length", "5", "--trace-target", "0"],
    "no target to trace": ["--length", "5", "--trace", "trace.html", "--trace-target", "1"],
}


@pytest.mark.parametrize(
    "line",
    [
        '{"pos": 5}',
        '{"pos": ["DET", 5]}',
        '["food", ":", 5]',
        '{"length": 5, "words_": [1]}',
        '{"attributes": null}',
    ],
)
def test_a_target_of_the_wrong_kind_is_named_by_its_line(line, untrained, capsys, tmp_path):
    targets = tmp_path / "targets.jsonl"
    targets.write_text(line + "\n")
    assert main(["control", str(untrained), "--targets", str(targets)]) == 2
    assert f"{targets}, line 1: " in capsys.readouterr().err


def test_null_asks_for_nothing(tmp_path):
    targets = tmp_path / "targets.jsonl"
    nothing = '"attributes": null, "spans": null, "keywords": null, "tree": null, "pos": null'
    targets.write_text('{"length": 5, ' + nothing + "}\n")
    assert read_targets(targets)[0].controls() == ("length",)


def test_one_file_is_not_two(untrained, capsys, tmp_path):
    both = str(tmp_path / "both.html")
    asked = ["control", str(untrained), "--length", "5", "--trace", both, "-o", both]
    assert main(asked) == 2
    assert "give two files" in capsys.readouterr().err


@pytest.fixture
def compiles(monkeypatch):
    """Fail where anything is compiled for a chain."""

    def refuse(*arguments, **options):
        raise AssertionError("bad input reached the chain")

    monkeypatch.setattr(Controller, "_write_some", refuse)


@pytest.mark.parametrize("name", BAD)
def test_bad_control_is_refused_before_compilation(name, untrained, capsys, compiles, tmp_path):
    out = tmp_path / "out.jsonl"
    assert main(["control", str(untrained), "-o", str(out), *BAD[name]]) == 2
    message = capsys.readouterr().err
    assert message.startswith("diffusion-jax: error: ")
    assert message.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    "asked",
    [
        ["infill"],
        ["infill", "--template", "the pub ."],
        ["infill", "--template", "the thay ___"],
        ["infill", "--template", "the ___", "--mask", " "],
        ["infill", "--template", "the ___", "--min-hole", "4", "--max-hole", "2"],
        ["infill", "--template", "the ___", "--num", "0"],
        ["infill", "--template", "the ___ .", "--guidance.scale", "50"],
        ["evaluate-control", "--task", "length", "--guidance.attribute-weight", "7"],
        ["evaluate-control"],
        ["evaluate-control", "--task", "lenght"],
        ["evaluate-control", "--task", "length", "-n", "0"],
        ["evaluate-control", "--task", "attribute"],
    ],
    ids=" ".join,
)
def test_bad_infill_and_measurement_are_refused(asked, untrained, capsys, compiles):
    command, *options = asked
    assert main([command, str(untrained), *options]) == 2
    assert capsys.readouterr().err.startswith("diffusion-jax: error: ")


@pytest.mark.parametrize("name", ["control", "evaluate-control"])
def test_the_judge_knows_the_values_by_which_a_field_is_absent(
    name, untrained, controller, monkeypatch, capsys, tmp_path
):
    def make_judge(*arguments, fields, **options):
        raise UserError(f"food is {', '.join(fields['food'])}")

    monkeypatch.setattr("diffusion_jax.control.judge.make_judge", make_judge)
    for module in (control, evaluate_control):
        monkeypatch.setattr(module, "load_controller", lambda command: controller)
    targets = tmp_path / "targets.jsonl"
    spans = '"pos": "* *", "spans": [[0, 1, "NP"]]'
    targets.write_text('{"attributes": {"food": "absent"}, ' + spans + "}\n")
    assert main([name, str(untrained), "--targets", str(targets)]) == 2
    assert "food is absent, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["-n", "0"], "--num 0"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--seed", "-1"], "seed is -1"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_read(
    asked, message, untrained, capsys, monkeypatch
):
    from diffusion_jax.generate import Generator

    monkeypatch.setattr(Generator, "from_checkpoint", lambda *_, **__: pytest.fail("was read"))
    assert main(["control", str(untrained), "--length", "5", *asked]) == 2
    assert message in capsys.readouterr().err


def test_keywords_need_one_layout_with_room_for_them(controller):
    target = Target(keep="the ___ .", keywords=("thai", "is", "french"))
    controller.check([target])
    assert [plan.layout for plan in controller.layouts(target)] == [(3,)]


@pytest.mark.slow
def test_the_trace_is_of_the_chosen_target_and_ends_as_its_text(untrained, tmp_path):
    targets = tmp_path / "targets.jsonl"
    targets.write_text('{"length": 5}\n{"keep": "the ___ ."}\n', encoding="utf-8")
    out = tmp_path / "out.jsonl"
    asked = ["control", str(untrained), "--targets", str(targets), "-n", "3", "-o", str(out)]

    def trace(name, *options):
        page = tmp_path / name
        assert main([*asked, "--trace", str(page), "--trace-target", "1", *options]) == 0
        data = page.read_text(encoding="utf-8").split('type="application/json">')[1]
        return json.loads(data.split("</script>")[0])

    data = trace("first.html")
    record = json.loads(out.read_text(encoding="utf-8").splitlines()[1])
    assert data["target"] == {"keep": "the ___ ."}
    assert data["chains"][0]["text"] == record["text"]
    # Nothing is left to be written, but the page is.
    assert trace("again.html", "--resume") == data


@pytest.mark.slow
def test_control_writes_lines_and_goes_on_where_it_stopped(untrained, tmp_path, capsys):
    targets = tmp_path / "targets.jsonl"
    targets.write_text('{"length": 5}\n{"length": 7}\n{"keep": "the ___ ."}\n', encoding="utf-8")
    out = tmp_path / "out.jsonl"
    asked = ["control", str(untrained), "--targets", str(targets), "-n", "2", "-o", str(out)]
    assert main([*asked, "--max-layouts", "2"]) == 0
    whole = out.read_text(encoding="utf-8")
    records = [json.loads(line) for line in whole.splitlines()]
    assert [record["id"] for record in records] == [0, 1, 2]
    assert records[1]["target"] == {"length": 7}
    assert records[1]["holds"] == {"length": True}
    assert records[2]["holds"] == {"keep": True}
    assert len(records[0]["candidates"]) == 2
    assert records[0]["text"] in [c["text"] for c in records[0]["candidates"]]
    # The first line, and half of the second.
    first = whole.splitlines(keepends=True)[0]
    out.write_text(first + whole[len(first) : len(first) + 20], encoding="utf-8")
    assert main([*asked, "--max-layouts", "2", "--resume"]) == 0
    assert out.read_text(encoding="utf-8") == whole
    assert main([*asked[:-1], str(targets), "--resume"]) == 2


def test_what_the_tasks_need_and_nobody_gives_is_trained(untrained, monkeypatch, tmp_path):
    trained = []

    def train_classifier(config, base, directory, *, resume):
        assert resume
        trained.append((config.model.task, config.reads, directory))

    monkeypatch.setattr(classifier_training, "train_classifier", train_classifier)
    targets = tmp_path / "targets.jsonl"
    targets.write_text('{"length": 5, "pos": "DET * * * *"}\n')
    base = evaluate_control.EvaluateControlCommand(
        checkpoint=f"{untrained}/", task=("attribute+length", "span"), targets=str(targets)
    )
    found = evaluate_control._train_missing(base)
    expected = [("attribute", "estimate"), ("pos", "estimate"), ("tree", "state")]
    expected = [(task, reads, f"{untrained}-{task}-{reads}") for task, reads in expected]
    assert trained == expected
    assert found == tuple(path for _, _, path in expected)
    # Published guidance asks about noisy states; what needs no classifier trains none.
    trained.clear()
    published = replace(base, guidance=GuidanceConfig(method="adagrad"), task=("infill",))
    evaluate_control._train_missing(replace(published, task=("pos",), targets=None))
    assert [reads for _, reads, _ in trained] == ["state"]
    assert evaluate_control._train_missing(replace(published, targets=None)) == ()


def test_a_classifier_that_is_given_or_was_trained_is_used(untrained, monkeypatch, tmp_path):
    monkeypatch.setattr(
        classifier_training, "train_classifier", lambda *_, **__: pytest.fail("was trained")
    )
    run = tmp_path / "run"
    run.symlink_to(untrained)
    for name, task in (("mine", "pos"), ("run-tree-state", "tree")):
        (tmp_path / name).mkdir()
        config = ClassifierRunConfig(model=ClassifierConfig(task=task))
        Workdir(tmp_path / name).write_config(config)
    monkeypatch.setattr(
        Workdir, "checkpoints", lambda self: SimpleNamespace(steps=lambda: [1000, 3000])
    )
    mine = str(tmp_path / "mine")
    command = evaluate_control.EvaluateControlCommand(
        checkpoint=str(run), task=("pos", "tree"), classifier=(mine,)
    )
    found = evaluate_control._train_missing(command)
    assert found == (mine, str(tmp_path / "run-tree-state"))


def test_texts_of_two_templates_are_set_apart(untrained, monkeypatch, tmp_path, capsys):
    def write(self, targets, num_samples, **options):
        for target in targets:
            texts = [target.keep.replace("___", word) for word in ("thai", "nice", "nice")]
            yield [Candidate(text, {}, -1.0, True, Plan(target)) for text in texts]

    monkeypatch.setattr(Controller, "write", write)
    templates = tmp_path / "templates.txt"
    templates.write_text("the ___ fox .\na ___ .\n")
    assert main(["infill", str(untrained), "-i", str(templates)]) == 0
    assert capsys.readouterr().out == "the thai fox .\nthe nice fox .\n\na thai .\na nice .\n"
