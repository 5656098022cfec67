"""Every test runs on eight fake CPU devices, with JAX's own checkers switched on."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of a test's time is compilation, and a test's arrays are small: code that is not optimised
# halves the suite. Processes that tests start inherit it. Your own XLA_FLAGS come later, and win.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    + os.environ.get("XLA_FLAGS", "")
)

import hypothesis
import jax
import pytest

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
