"""Targets, composed and steered toward: what is anchored holds, what is climbed rises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.classifier_run import TrainedClassifier
from diffusion_jax.config import GuidanceConfig
from diffusion_jax.control.candidate import Candidate, decode
from diffusion_jax.control.choose import order, rank
from diffusion_jax.control.compose import Wanted, log_probs, make_guidance, ways_of
from diffusion_jax.control.read_back import trees_of
from diffusion_jax.control.score import layout_shares
from diffusion_jax.control.steer import Controller
from diffusion_jax.control.wishes import Plan, Wish, plan_wishes, stack_wishes
from diffusion_jax.errors import UserError
from diffusion_jax.guidance import fixed_words, keywords, latent_posterior
from diffusion_jax.models.base import bind
from diffusion_jax.samplers import Anchor, step_grid
from diffusion_jax.schedules import make_schedule
from diffusion_jax.text.control_targets import Target, make_target
from diffusion_jax.text.templates import keeps, parse_template
from diffusion_jax.text.tokenizers.word import WordTokenizer
from diffusion_jax.text.trees import parse_tree
from diffusion_jax.types import StepInfo, StepOutput

ATTRIBUTE = make_target(attributes=["food=thai"])
TAGS = make_target(pos="DET NOUN AUX * PUNCT", attributes=["price=low"])
TREE = make_target(tree="(S (NP the pub) (VP is (ADJP cheap)) .)")
SPAN = make_target(spans=["1:3=NP"], length=6)
# Keywords are words of the vocabulary; two rows of a batch may want different numbers of them.
WORDS = make_target(keywords=["thai", "french"])


TASKS = ("attribute", "pos", "tree")


def write(controller, targets, n=4, **options):
    return list(controller.write(targets, n, **options))


def test_a_length_is_kept_exactly_and_holds_words_only(controller):
    targets = [make_target(length=n) for n in (1, 7, 16)]
    for target, candidates in zip(targets, write(controller, targets)):
        for candidate in candidates:
            assert len(controller.tokenizer.encode(candidate.text)) == target.length
            assert "[" not in candidate.text


@pytest.mark.slow
def test_a_template_is_kept_exactly(controller):
    target = make_target(keep="the ___ is ___.")
    template = parse_template(target.keep, controller.tokenizer)
    lengths = set()
    for candidate in write(controller, [target], 6)[0]:
        ids = controller.tokenizer.encode(candidate.text)
        assert candidate.complete
        assert keeps(template, ids)
        lengths.add(len(ids))
    assert lengths <= set(range(5, 10))


def test_a_template_and_a_length_compose(controller):
    target = make_target(keep="the ___ is ___.", length=8)
    for candidate in write(controller, [target])[0]:
        assert len(controller.tokenizer.encode(candidate.text)) == 8


@pytest.mark.slow
def test_a_sample_does_not_depend_on_its_batch(controller):
    targets = [ATTRIBUTE, TAGS, TREE, SPAN, WORDS, make_target(keywords=["french"])]
    together = write(controller, targets, 3, batch_size=18)
    apart = write(controller, targets, 3, batch_size=8)
    texts = [[c.text for c in group] for group in together]
    assert texts == [[c.text for c in group] for group in apart]
    # Attributes go by another way than trees: neither may feel that the other is in the batch.
    for index in (0, 2):
        alone = next(controller.write(targets[index : index + 1], 3, first_index=index))
        assert texts[index] == [c.text for c in alone]


@pytest.mark.slow
def test_no_updates_is_no_guidance_bit_for_bit(controller):
    still = controller.with_options(updates=0)
    free = controller.write_plans([[Plan(Target())] * 4])
    assert [c.text for c in write(still, [ATTRIBUTE])[0]] == [c.text for c in next(free)]


def one_guided_step(controller, target, *, other=None, sigma=0.3, drift=0.0, **changes):
    """Return what was wanted, a state before and after one guided step, and the step.

    The second row wants the same, or what ``other`` asks. The state is ``drift`` off the mean.
    """
    # Plain gradients have no such step.
    small = {} if changes.get("method") == "gradient" else {"learning_rate": 0.02}
    options = dataclasses.replace(controller.options, **small, **changes)
    plan = controller.layouts(target)[0]
    wishes = plan_wishes(
        plan, controller.classifiers, controller.tokenizer, controller.length, options
    )
    second = wishes if other is None else controller._wishes(Plan(other))
    stacked = stack_wishes([wishes, second])
    params = {kind: controller.classifiers[kind].params for kind in stacked if kind in TASKS}
    wanted = Wanted(jax.tree.map(jnp.asarray, stacked), params)
    x = jax.random.normal(jax.random.key(5), (2, controller.length, 8))
    anchor = Anchor(x, jnp.ones(x.shape[:2], bool))
    denoise = bind(controller.model, controller.params)
    guide = make_guidance(
        controller.model,
        controller.classifiers,
        options,
        timesteps=20,
        self_condition=False,
        draws_noise=sigma > 0,
    )(controller.params, denoise, anchor, wanted)
    info = StepInfo(*(jnp.asarray(f[12]) for f in step_grid(controller.generator.schedule, 20)))
    output = StepOutput(x, x - drift, jnp.float32(sigma))
    keys = jax.random.split(jax.random.key(6), 2)
    moved, _ = jax.jit(guide.apply)(keys, x, guide.init(x), info, output)
    return wanted, x, moved, info, output


@pytest.mark.parametrize(
    ("target", "kind"),
    [(ATTRIBUTE, "attribute"), (TAGS, "pos"), (TREE, "tree"), (SPAN, "tree")],
    ids=("attribute", "pos", "tree", "span"),
)
def test_a_guided_step_raises_the_log_probability_under_the_classifier(controller, target, kind):
    wanted, before, after, info, _ = one_guided_step(controller, target)
    log_prob = log_probs(wanted, controller.classifiers)[kind]
    time = jnp.full((2,), info.time_prev)
    assert jnp.all(log_prob(after, time) > log_prob(before, time))


def test_a_row_moves_as_if_it_were_alone(controller):
    words = make_target(keywords=["thai"])
    # Off the mean, as the sampler's noise leaves it: there fluency pulls.
    *_, mixed, _, _ = one_guided_step(controller, ATTRIBUTE, other=words, drift=0.1)
    *_, alone, _, _ = one_guided_step(controller, ATTRIBUTE, drift=0.1)
    np.testing.assert_allclose(mixed[0], alone[0], rtol=1e-5, atol=1e-6)
    *_, before, free, _, _ = one_guided_step(controller, words, other=Target(), drift=0.1)
    np.testing.assert_array_equal(free[1], before[1])


def test_attributes_are_steered_without_noise_too(controller):
    wanted, before, after, info, _ = one_guided_step(controller, ATTRIBUTE, sigma=0.0)
    log_prob = log_probs(wanted, controller.classifiers)["attribute"]
    assert not np.allclose(before, after)
    time = jnp.full((2,), info.time_prev)
    assert jnp.all(log_prob(after, time) != log_prob(before, time))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gradient", "learning_rate": 0.1, "fluency_weight": 5e-4}, "shifts by"),
        ({"noise": 0.5}, "in units of a step's noise"),
    ],
)
def test_what_acts_through_noise_is_refused_where_there_is_none(controller, changes, message):
    with pytest.raises(UserError, match=message):
        one_guided_step(controller, ATTRIBUTE, sigma=0.0, **changes)


def test_screening_is_numbered_by_target(controller, monkeypatch):
    """Which layouts a template gets must not depend on the targets before it, or on a resume."""
    seen = []

    def write(self, trials, seed, batch_size, indices):
        seen.append(list(indices))
        return iter([[Candidate("", {}, 0.0, True, ways[0])] * len(ways) for ways in trials])

    monkeypatch.setattr(Controller, "_write", write)
    keep = make_target(keep="the ___ is thai ___.")
    controller.plans([make_target(length=9), keep, keep], 2)
    controller.plans([keep], 2, first_index=2)
    assert seen == [[1, 2], [2]]


@pytest.mark.parametrize(
    ("asked", "changes"),
    [
        ({"length": 9}, {"length_by": "gradient"}),
        ({"keep": "the ___ is thai ___."}, {"keep_by": "gradient"}),
    ],
    ids=("length", "keep"),
)
def test_length_and_words_can_go_by_gradient(controller, asked, changes):
    wanted, before, after, info, output = one_guided_step(
        controller, make_target(**asked), **changes
    )
    ids = wanted.wishes["words"].targets
    posterior = latent_posterior(controller.model.head(controller.params).weight)
    value = fixed_words(posterior, jnp.maximum(ids, 0), ids >= 0)
    assert jnp.all(value(after, info, output) > value(before, info, output))


@pytest.mark.slow
def test_targets_are_arguments_not_programs(controller):
    before = controller.chain._cache_size()
    write(controller, [make_target(attributes=["food=thai"])], 8)
    write(controller, [make_target(attributes=["name=golden fox"])], 8)
    assert controller.chain._cache_size() <= before + 1


def test_rows_without_a_wish_want_nothing():
    rows = [
        {"keywords": Wish(np.asarray([5, 6]), 2.0)},
        {"words": Wish(np.asarray([1, 2, 3]), 1.0)},
        {"keywords": Wish(np.asarray([7]), 1.0)},
    ]
    stacked = stack_wishes(rows)
    assert stacked["keywords"].targets.tolist() == [[5, 6], [-1, -1], [7, -1]]
    assert stacked["keywords"].weight.tolist() == [2.0, 0.0, 1.0]
    assert stacked["words"].targets[0].tolist() == [-1, -1, -1]


def test_a_row_may_want_fewer_keywords():
    embedding = jax.random.normal(jax.random.key(1), (9, 4))
    x = jax.random.normal(jax.random.key(2), (1, 5, 4))
    info = StepInfo(*(jnp.asarray(f[10]) for f in step_grid(make_schedule("sqrt", 20))))
    output = StepOutput(x, x, jnp.float32(0.3))
    posterior = latent_posterior(embedding)
    few = keywords(posterior, jnp.asarray([[3]]))(x, info, output)
    padded = keywords(posterior, jnp.asarray([[3, -1]]))(x, info, output)
    np.testing.assert_array_equal(few, padded)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"attributes": ["fod=thai"]}, "no field 'fod'; did you mean 'food'"),
        ({"attributes": ["food=tai"]}, "no value of food 'tai'; did you mean 'thai'"),
        ({"spans": ["1:2=PX"]}, "no constituent 'PX'"),
        ({"length": 17}, "length asks for 17 tokens; ask for 1 to 16"),
        ({"spans": ["3:16=PP"]}, "3:16 is not inside the text of 16 tokens"),
        ({"keep": "the thay ___"}, "'thay' is not in this model's vocabulary; did you mean"),
        ({"keywords": ["sushi"]}, "'sushi' is not in this model's vocabulary"),
        ({"keep": "the ___ .", "length": 15}, "no text of 15 tokens"),
    ],
)
def test_what_the_model_cannot_honour_is_refused(controller, asked, message):
    with pytest.raises(UserError, match="target 1: .*" + message):
        controller.check([make_target(**asked)])


def test_a_control_without_its_classifier_is_refused(controller):
    bare = Controller.build(controller.generator, {}, GuidanceConfig(), controller.holes)
    for target, task in ((ATTRIBUTE, "attribute"), (TAGS, "attribute"), (SPAN, "tree")):
        with pytest.raises(UserError, match=f"needs a classifier for the task '{task}'"):
            bare.check([target])


def test_classifiers_of_other_embeddings_or_one_task_are_refused(
    controller, untrained, monkeypatch
):
    right = controller.classifiers["pos"]
    monkeypatch.setattr(TrainedClassifier, "load", lambda path: right)
    with pytest.raises(UserError, match="both classifiers for 'pos'"):
        Controller.from_checkpoint(untrained, ["a", "b"])
    config = dataclasses.replace(right.config, fingerprint="of another run")
    wrong = dataclasses.replace(right, config=config)
    monkeypatch.setattr(TrainedClassifier, "load", lambda path: wrong)
    with pytest.raises(UserError, match="trained on other embeddings"):
        Controller.from_checkpoint(untrained, ["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"lowest": 0.5, "highest": 0.4}, "highest"),
        ({"method": "gradient", "updates": 5}, 'nothing with method "gradient"'),
        ({"method": "adagrad", "scale": 2.0}, 'nothing with method "adagrad"'),
        ({"through": "denoiser"}, 'nothing with method "auto"'),
        ({"tree_weight": -1.0}, "tree_weight"),
    ],
)
def test_guidance_options_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        GuidanceConfig(**options)


@pytest.mark.slow
def test_auto_is_the_gradient_for_attributes_and_adagrad_for_the_rest(controller):
    auto = {"method": "auto", "fluency_weight": 0.01}
    gradient = {"method": "gradient", "through": "denoiser"}
    plain = dataclasses.replace(GuidanceConfig(), lowest=0.0)
    only_gradient = controller.with_options(
        **{name: getattr(plain, name) for name in ("learning_rate", "fluency_weight")}
    )
    _, before, after, *_ = one_guided_step(controller, ATTRIBUTE, **auto)
    _, _, by_gradient, *_ = one_guided_step(only_gradient, ATTRIBUTE, **gradient)
    np.testing.assert_array_equal(after, by_gradient)
    assert not np.array_equal(before, after)
    # Of several, "auto" climbs the sum, whose scale is the same as that of one.
    two = make_target(attributes=["food=thai", "price=low"])
    _, _, after, *_ = one_guided_step(controller, two, **auto)
    _, _, by_gradient, *_ = one_guided_step(only_gradient, two, scale=20.0, **gradient)
    np.testing.assert_allclose(after, by_gradient, rtol=1e-5, atol=1e-6)
    tags = make_target(pos="DET NOUN AUX * PUNCT")
    _, _, after, *_ = one_guided_step(controller, tags, **auto)
    _, _, by_adagrad, *_ = one_guided_step(controller, tags)
    np.testing.assert_array_equal(after, by_adagrad)


@pytest.mark.parametrize(
    ("options", "ways"),
    [
        (
            {},
            {
                ("gradient", "denoiser"): ["attribute"],
                ("adagrad", "classifier"): ["pos", "words"],
            },
        ),
        (
            {"method": "adagrad", "through": "denoiser"},
            {("adagrad", "denoiser"): ["pos", "attribute", "words"]},
        ),
        ({"method": "gradient"}, {("gradient", "classifier"): ["pos", "attribute", "words"]}),
    ],
)
def test_each_kind_of_control_goes_its_way(options, ways):
    kinds, nothing = ["pos", "attribute", "words"], frozenset()
    found = ways_of(kinds, GuidanceConfig(**options), draws_noise=True, reading=nothing)
    assert found == ways
    if not options:
        found = ways_of(kinds[:2], GuidanceConfig(), draws_noise=False, reading=nothing)
        assert found == {("adagrad", "denoiser"): ["attribute"], ("adagrad", "classifier"): ["pos"]}
        found = ways_of(kinds, GuidanceConfig(), draws_noise=True, reading=frozenset({"pos"}))
        assert found == {
            ("gradient", "denoiser"): ["pos", "attribute"],
            ("adagrad", "classifier"): ["words"],
        }


def test_every_line_end_is_a_token_of_the_text():
    """Corpora with data.keep_newline have one at the end; a model may write it twice."""
    tokenizer = WordTokenizer(["the", "pub", "\n"])
    (end,) = tokenizer.encode("\n")
    the, pub = tokenizer.encode("the pub")
    for ends in (0, 1, 2):
        row = [tokenizer.start_id, the, pub, *[end] * ends, tokenizer.end_id, tokenizer.pad_id]
        text = decode(np.asarray(row), tokenizer)
        assert text == "the pub" + " \n" * ends
        assert len(tokenizer.encode(text)) == 2 + ends


def test_samples_go_to_the_layouts_that_the_model_likes():
    assert layout_shares([0.0, 0.0], 5) in ([3, 2], [2, 3])
    assert layout_shares([-1.0, -40.0], 7) == [7, 0]
    assert sum(layout_shares([0.0, -1.0, -2.0, -0.5], 50)) == 50
    # Four times the score.
    assert layout_shares([0.0, -0.25 * np.log(4.0)], 5) == [4, 1]


def test_the_best_candidate():
    def candidate(text, classified, model, complete=True):
        return Candidate(text, {"pos": classified}, model, complete, Plan(Target()))

    a, b = candidate("a b c", -1.0, -9.0), candidate("a b d", -4.0, -5.0)
    broken, c = candidate("x", 0.0, 0.0, complete=False), candidate("a b c", -3.0, -8.0)
    # It pleases the classifier, but the model would not write it.
    odd = candidate("z", -0.5, -30.0)
    everything = [broken, a, b, c, odd]
    assert order(everything, "classifier")[0] == 1
    assert order(everything, "model")[0] == 2
    assert order(everything, "mbr")[0] in (1, 3)
    assert [c.text for c in rank(everything, "model")] == ["a b d", "a b c", "z", "x"]
    with pytest.raises(UserError, match="choose is 'best'"):
        order(everything, "best")


def test_trees_are_read_back_as_brackets_that_do_not_cross(controller):
    texts = ["the crown is a thai pub .", "it is cheap .", ""]
    first, second, nothing = trees_of(controller, texts)
    assert nothing is None
    assert first is not None
    assert second is not None
    for text, tree in ((texts[0], first), (texts[1], second)):
        known = controller.tokenizer.tokens(controller.tokenizer.encode(text))
        assert list(parse_tree(tree).tokens) == known
    # The classifier was not trained: it sees some brackets, and they are nested.
    assert parse_tree(first).spans
    assert trees_of(controller, texts[:1]) == [first]
