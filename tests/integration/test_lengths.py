"""A model that predicts lengths, from training to candidates; candidates chosen and cut short."""

import io
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.cli import main
from diffusion_jax.errors import UserError
from diffusion_jax.evaluate import corpus_bound
from diffusion_jax.evaluate.likelihood import LikelihoodTerms
from diffusion_jax.generate import Generator
from diffusion_jax.models.length import init_length_head, length_log_probs
from diffusion_jax.program import Program
from diffusion_jax.workdir import Workdir
from tests.integration.small import config, write_untrained

SOURCES = ["name : Alimentum | food : Italian", "name : Zizzi", "food : Italian | area : riverside"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    asked = config("pair")
    asked = replace(asked, model=replace(asked.model, length_head=True))
    return write_untrained(tmp_path_factory.mktemp("lengths") / "run", "pair", asked)


@pytest.fixture(scope="module")
def generator(run):
    return Generator.from_checkpoint(run, steps=1)


def test_the_head_sees_the_source_alone(key):
    head = init_length_head(key, 4, 6)
    vectors = jnp.arange(48.0).reshape(2, 6, 4) / 10
    mask = jnp.arange(6)[None, :] >= jnp.array([[2], [3]])
    log_probs = length_log_probs(head, vectors, mask)
    np.testing.assert_allclose(jnp.exp(log_probs).sum(-1), 1.0, rtol=1e-5)
    changed = jnp.where(mask[..., None], -3.0, vectors)
    np.testing.assert_array_equal(length_log_probs(head, changed, mask), log_probs)
    other = length_log_probs(head, vectors.at[:, 0].add(1.0), mask)
    assert np.abs(other - log_probs).max() > 1e-3


@pytest.mark.slow
def test_padding_is_given_and_its_amount_is_learned(run):
    """The loss sees no padding as generated; the head's term is the surprise at the length."""
    stored = Workdir(run).read_config()
    stored = replace(stored, diffusion=replace(stored.diffusion, positions="target"))
    program = Program.build(stored)
    params = Workdir(run).read_params(stored)
    pad = stored.model.pad_id
    ids = jnp.array([[4, 5, 6, 7, 8, pad, pad, pad]])
    mask = jnp.arange(8)[None, :] >= 2
    loss = jax.jit(program.loss)
    batch = {"input_ids": ids, "noise_mask": mask}
    terms = loss(params, jax.random.key(0), batch, jnp.array([5]), None)
    log_probs = program.model.predict_length(params, ids, mask)
    np.testing.assert_allclose(terms.length_nll, -log_probs[:, 3], rtol=1e-5)
    without_head = replace(stored.model, length_head=False, pad_id=None)
    plain = Program.build(replace(stored, model=without_head))
    given = {"input_ids": ids, "noise_mask": mask & (ids != pad)}
    want = jax.jit(plain.loss)(params, jax.random.key(0), given, jnp.array([5]), None)
    np.testing.assert_allclose(terms.terms.total(), want.total(), rtol=1e-5)
    assert set(terms._asdict()) == {*want._asdict(), "length_nll"}


def test_the_bound_counts_the_length_and_no_padding(generator, monkeypatch):
    """Padding is given, not paid for; the surprise at the length is."""
    program = Program.build(generator.config)
    pad = generator.config.model.pad_id
    ids = np.array([[4, 5, 6, 7, 8, pad, pad, pad]], np.int32)
    mask = np.arange(8)[None, :] >= 2
    seen = {}

    def bound(*arguments, noise_mask, **options):
        seen["mask"] = noise_mask
        return LikelihoodTerms(*jnp.zeros((4, 1)))

    monkeypatch.setattr(corpus_bound, "likelihood_bound", bound)
    terms = corpus_bound._batch_bound(
        jax.random.key(1),
        generator.params,
        ids,
        mask,
        program=program,
        tokenizer=generator.tokenizer,
        num_timesteps=2,
        variance="matched",
        clamp=False,
    )
    np.testing.assert_array_equal(seen["mask"], mask & (ids != pad))
    log_probs = program.model.predict_length(generator.params, ids, mask)
    np.testing.assert_allclose(terms.total(), -log_probs[:, 3], rtol=1e-5)


def test_candidates_have_the_lengths_of_the_beam(generator):
    """Rows reach the chain with the beam's lengths; buckets and batches change no text's place."""
    seen = []

    def reverse(params, keys, ids, mask):
        seen.append(ids.shape)
        # Write each row's number of generated positions as that many copies of one word.
        return np.where(mask, 7, ids)

    told = replace(generator, reverse=reverse)
    word = generator.tokenizer.decode([7])
    whole = list(told.generate(SOURCES, length_beam=2, num_candidates=2))
    counts = [[text.split().count(word) for text in g.candidates] for g in whole]
    log_probs = told._lengths([told._pack(text, 0) for text in SOURCES])
    for row, source, probs in zip(counts, SOURCES, log_probs):
        room = 56 - len(generator.tokenizer.encode(source)) - 3
        best = 3 + np.argsort(-probs[3 : room + 1], kind="stable")[:2]
        assert row == best.repeat(2).tolist()
    seen.clear()
    cut = list(told.generate(SOURCES, length_beam=2, num_candidates=2, length_bucket=8))
    assert cut == whole
    assert all(length % 8 == 0 for _, length in seen)


def test_rows_are_cut_as_training_cut_them(generator):
    """Unless told otherwise, and where the model knows how long a target is."""
    seen = []

    def reverse(params, keys, ids, mask):
        seen.append(ids.shape[1])
        return np.where(mask, 7, ids)

    data = replace(generator.config.data, length_bucket=8)
    bucketed = replace(generator, config=replace(generator.config, data=data), reverse=reverse)

    def lengths(writer, **options):
        seen.clear()
        list(writer.generate(SOURCES, **options))
        return list(seen)

    asked = lengths(replace(generator, reverse=reverse), length_bucket=8)
    assert lengths(bucketed) == asked
    assert min(asked) < data.length
    assert lengths(bucketed, length_bucket=0) == [data.length]
    model = replace(generator.config.model, length_head=False, pad_id=None)
    config = replace(bucketed.config, model=model)
    headless = replace(bucketed, config=config, length_log_probs=None)
    assert lengths(headless) == [data.length]
    assert max(lengths(headless, max_target=5)) < data.length


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length_beam": 0}, "at least 1"),
        ({"max_target": 2}, "START, a token and END"),
        ({"length_bucket": -1}, "at least 1, 0 and 0"),
        ({"length_beam": 2.0}, "length_beam is 2.0; it must be a whole number"),
        ({"num_candidates": 2.0}, "num_candidates is 2.0; it must be a whole number"),
        ({"num_candidates": True}, "num_candidates is True"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"batch_size": "8"}, "batch_size is '8'"),
        ({"first_index": -1}, "texts -1 to -1 of a seed; their indices go from 0 to 4,294,967,295"),
        ({"first_index": 2**32}, "take another seed"),
    ],
)
def test_lengths_out_of_range_are_refused(generator, options, message):
    with pytest.raises(UserError, match=message):
        generator.generate(SOURCES, **options)


def test_sources_that_are_no_texts_are_refused(generator):
    with pytest.raises(UserError, match="a list of texts, not one text"):
        generator.generate("name : Zizzi")
    for sources in ([1], ["name : Zizzi", None]):
        with pytest.raises(UserError, match=f"source {len(sources)} is .* must be a text"):
            list(generator.generate(sources))
    # The last index there is has a text, the next has none.
    with pytest.raises(UserError, match="texts 4294967295 to 4294967297 of a seed"):
        list(generator.generate(SOURCES[:2], first_index=2**32 - 1))
    with pytest.raises(UserError, match=r"num_samples is 2.0; it must be a whole number"):
        generator.sample(2.0)


def test_a_model_without_a_head_tries_no_lengths(generator):
    model = replace(generator.config.model, length_head=False, pad_id=None)
    plain = replace(generator, config=replace(generator.config, model=model))
    with pytest.raises(UserError, match="length-head"):
        plain.generate(SOURCES, length_beam=2)
    with pytest.raises(UserError, match="needs max_target"):
        plain.generate(SOURCES, length_bucket=8)


def test_the_command_writes_the_chosen_candidate(run, tmp_path, capsys):
    sources, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    sources.write_text("\n".join(SOURCES) + "\n")
    arguments = ["generate", str(run), "-i", str(sources), "-o", str(output), "--steps", "1"]
    beam = ["--candidates", "2", "--length-beam", "2"]
    assert main([*arguments, *beam, "--mbr", "chrf"]) == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["source"] for record in records] == SOURCES
    for record in records:
        assert len(record["candidates"]) == 4
        assert record["text"] in record["candidates"]
    # Another way to choose would leave a file of two kinds.
    assert main([*arguments, *beam, "--resume"]) == 2
    assert "whether one is chosen" in capsys.readouterr().err
    assert main([*arguments[:5], str(tmp_path / "other"), "--mbr", "bleu"]) == 2


def test_unknown_words_are_told_of_files_and_of_standard_input(run, tmp_path, monkeypatch, capsys):
    lines = "name : Zizzi\nzzqq name\nname\nzzqq\n"
    (tmp_path / "in.txt").write_text(lines)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    told = []
    for source in (str(tmp_path / "in.txt"), "-"):
        assert main(["generate", str(run), "-i", source, "--steps", "1"]) == 0
        told.append(capsys.readouterr().err)
    assert "of 4 sources have words that are not in this model's vocabulary" in told[0]
    assert "2, 4)" in told[0]
    assert told[0] == told[1]


def test_a_long_source_is_refused_or_cut(run, generator, tmp_path, capsys):
    length = generator.config.data.length
    room = length // 4
    short, long = "name : Zizzi", " ".join(["food"] * length)
    kept = " ".join(["food"] * (length - 3 - room))
    source = tmp_path / "long.txt"
    source.write_text(f"{short}\n{long}\n")
    command = ["generate", str(run), "-i", str(source), "--steps", "1"]
    assert main(command) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "source 2" in said.err
    assert "--truncate" in said.err
    assert main([*command, "--truncate"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["source"] for record in records] == [short, long]
    # What is cut off has no part in what is written, and what fits is as it was.
    (same,) = generator.generate([short])
    (cut,) = generator.cutting_sources().generate([kept], first_index=1)
    assert [record["candidates"] for record in records] == [same.candidates, cut.candidates]
    packed = generator.cutting_sources()._pack(long, 0)
    assert packed.noise_mask.sum() == room
