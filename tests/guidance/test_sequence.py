"""Several guides on one chain move it as they would one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.guidance import for_rows, in_turn
from diffusion_jax.types import Guidance

X = jnp.arange(12.0).reshape(2, 3, 2)


def counting(factor):
    """Multiply the state, count the steps, and add noise of the keys."""

    def apply(keys, x, state, info, output):
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
        return factor * x + noise, state + 1

    return Guidance(lambda x: jnp.zeros((), jnp.int32), apply)


@pytest.mark.parametrize("place", [0, 1])
def test_what_a_guide_draws_depends_on_its_place_not_on_the_others(key, place):
    keys = jax.random.split(key, 2)
    guides = [counting(1.0), counting(1.0)]
    alone = in_turn(*(guide if i == place else None for i, guide in enumerate(guides)))
    moved, _ = alone.apply(keys, X, alone.init(X), None, None)
    own = jax.vmap(lambda k: jax.random.fold_in(k, place))(jax.random.clone(keys))
    np.testing.assert_array_equal(moved, guides[0].apply(own, X, 0, None, None)[0])


def test_each_sees_the_state_that_the_one_before_left(key):
    both = in_turn(counting(2.0), counting(-3.0))
    keys = jax.random.split(key, 2)
    states = both.init(X)
    moved, states = both.apply(keys, X, states, None, None)
    assert [int(state) for state in states] == [1, 1]

    def noise(number):
        own = jax.vmap(lambda k: jax.random.fold_in(k, number))(jax.random.clone(keys))
        return jax.vmap(lambda k: jax.random.normal(k, X.shape[1:]))(own)

    np.testing.assert_allclose(moved, -3.0 * (2.0 * X + noise(0)) + noise(1), rtol=1e-6)
    assert not np.allclose(noise(0), noise(1))


def test_rows_that_want_nothing_stay_where_they_are(key):
    guide = for_rows(counting(2.0), jnp.asarray([False, True]))
    keys = jax.random.split(key, 2)
    moved, state = guide.apply(keys, X, guide.init(X), None, None)
    np.testing.assert_array_equal(moved[0], X[0])
    all_moved, _ = counting(2.0).apply(jax.random.clone(keys), X, state, None, None)
    np.testing.assert_array_equal(moved[1], all_moved[1])
    assert int(state) == 1


def test_there_is_at_least_one():
    with pytest.raises(UserError, match="at least one guide"):
        in_turn()
    with pytest.raises(UserError, match="at least one guide"):
        in_turn(None)
