"""Every test runs on eight fake CPU devices, with JAX's own checkers switched on."""

import itertools
import os

from tests.compiling import XLA_FLAGS

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of a test's time is compilation. Processes that tests start inherit it. Your own XLA_FLAGS
# come later, and win.
os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} {os.environ.get('XLA_FLAGS', '')}"

import hypothesis
import jax
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.text.grammar.language import Grammar

jax.config.update("jax_num_cpu_devices", 8)
# A key that is consumed twice is an error: it is how two noises become one.
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Golden numbers are float32 results of the originals; reduced-precision products would hide errors.
jax.config.update("jax_default_matmul_precision", "highest")

# A busy machine is no failure: what these examples check is not how long they take.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(scope="session", autouse=True)
def sentences_are_drawn_once():
    """Draw each stream of sentences once: hundreds of tests ask for the same few.

    Tests of the grammar itself draw anew, see their own conftest.
    """
    draws, streams = Grammar._draws, {}

    def drawn_once(grammar, *names):
        stream = (grammar.size, *names)
        drawn, source = streams.setdefault(stream, ([], draws(grammar, *names)))
        for place in itertools.count():
            if place == len(drawn):
                try:
                    drawn.append(next(source))
                except UserError:
                    del streams[stream]
                    raise
            yield drawn[place]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grammar, "_draws", drawn_once)
        yield draws
