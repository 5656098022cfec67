"""One program on any mesh: same noise, same losses, state where it should be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from diffusion_jax import keys
from diffusion_jax.errors import UserError
from diffusion_jax.scale.mesh import batch_sharding, check_batch_size, make_mesh
from diffusion_jax.scale.sharding import abstract_with_shardings, create_state, partition_spec
from diffusion_jax.train.optimizer import make_optimizer
from diffusion_jax.train.state import init_state
from diffusion_jax.train.step import make_train_step
from tests.train.toy import B, T, batch_at, history, init_params, loss_fn, setup

ROOT = jax.random.key(3)
MESHES = [
    {"data": 2},
    {"data": 4},
    {"data": 8},
    {"fsdp": 4},
    {"tensor": 4},
    {"data": 2, "fsdp": 2, "tensor": 2},
]


def losses(run_setup, steps=4):
    state, rows = run_setup.state, []
    for index in range(steps):
        state, metrics = run_setup.step(state, run_setup.place(batch_at(index)), ROOT)
        rows.append([float(metrics[name]) for name in ("total", "grad_norm", "param_norm")])
    return np.asarray(rows), jax.device_get(state)


@functools.cache
def single_device():
    return losses(setup())


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_losses_do_not_depend_on_the_mesh(sizes):
    rows, state = losses(setup(**sizes))
    expected_rows, expected_state = single_device()
    np.testing.assert_allclose(rows, expected_rows, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_noise_is_bit_equal_on_every_mesh():
    def noise(root):
        return jax.random.normal(keys.stream(root, "noise", 7), (B, 4, 8))

    expected = jax.device_get(jax.jit(noise)(ROOT))
    for sizes in ({"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}):
        placement = batch_sharding(make_mesh(**sizes))
        np.testing.assert_array_equal(jax.jit(noise, out_shardings=placement)(ROOT), expected)


def test_pmap_shard_map_and_jit_make_the_same_update():
    """Three spellings of data parallelism; the third is the program's."""
    optimizer, n = make_optimizer(1e-2, 100), 4
    params = init_params()
    batch = jnp.asarray(batch_at(0)["input_ids"])
    mesh = make_mesh(n, devices=jax.devices()[:n])

    def loss(params, input_ids):
        x = params["embedding"][input_ids]
        return jnp.mean((jnp.tanh(x @ params["inner"]) @ params["outer"] - 1) ** 2)

    def update(params, grads):
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return jax.tree.map(jnp.add, params, updates)

    def per_device(params, input_ids):
        return update(params, jax.lax.pmean(jax.grad(loss)(params, input_ids), "data"))

    single = update(params, jax.grad(loss)(params, batch))
    by_pmap = jax.pmap(per_device, axis_name="data", in_axes=(None, 0), devices=jax.devices()[:n])(
        params, batch.reshape(n, -1, batch.shape[1])
    )
    by_shard_map = jax.jit(
        jax.shard_map(
            per_device, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=False
        )
    )(params, batch)
    by_jit = jax.jit(
        lambda params, ids: update(params, jax.grad(loss)(params, ids)),
        in_shardings=(NamedSharding(mesh, P()), batch_sharding(mesh)),
    )(params, batch)
    for name in params:
        for form in (by_pmap[name][0], by_shard_map[name], by_jit[name]):
            np.testing.assert_allclose(form, single[name], rtol=1e-5, atol=1e-6)


def test_the_old_state_is_donated():
    run_setup = setup(data=2)
    old = jax.tree.leaves(run_setup.state)
    run_setup.step(run_setup.state, run_setup.place(batch_at(0)), ROOT)
    assert all(leaf.is_deleted() for leaf in old)


def test_averages_and_moments_lie_where_their_parameters_lie():
    run_setup = setup(data=2, fsdp=2, tensor=2)
    state, params = run_setup.shardings, run_setup.shardings.params
    assert params["inner"].spec == P("fsdp", "tensor")
    assert params["outer"].spec == P("tensor", "fsdp")
    assert all(average == params for average in state.ema.values())
    moments = [m for m in jax.tree.leaves(state.opt_state) if m.spec != P()]
    assert len(moments) == 2 * len(params)
    assert state.timestep_state.spec == P()
    inner = run_setup.state.params["inner"]
    assert inner.addressable_shards[0].data.size == inner.size // 4


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((3, 16, 32), ("layers", "embed", "mlp"), P(None, "fsdp", "tensor")),
        ((3, 32, 4, 8), ("layers", "embed", "heads", "kv"), P(None, "fsdp", "tensor", None)),
        ((30, 16), ("vocab", None), P("tensor", "fsdp")),
        # Nobody chooses the size of a vocabulary: one that does not divide stays whole.
        ((31, 16), ("vocab", None), P(None, "fsdp")),
        # The scan takes one whole layer at a time.
        ((8, 3), ("layers", "embed"), P(None, None)),
        ((), (), P()),
    ],
)
def test_rules(shape, axes, expected):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    assert partition_spec(mesh, shape, axes, "w") == expected


def test_an_axis_that_does_not_divide_is_named():
    mesh = make_mesh(data=2, tensor=4)
    with pytest.raises(UserError, match=r"tensor=4 does not divide axis 'heads' .size 6. of .*qkv"):
        partition_spec(mesh, (16, 6, 8), ("embed", "heads", "kv"), "qkv")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3}, "needs 3 devices; there are 8"),
        ({"fsdp": 3}, "multiple of 3 devices"),
        ({"data": 16}, "needs 16 devices"),
        ({"data": 0}, "at least 1"),
        ({"data": -1, "fsdp": -1}, "only one"),
    ],
)
def test_a_mesh_that_does_not_fit_is_named(sizes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(**sizes)


def test_the_free_axis_takes_the_rest():
    mesh = make_mesh(fsdp=2)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_batch_must_divide_over_the_devices():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    check_batch_size(mesh, 16, num_microbatches=4)
    with pytest.raises(UserError, match=r"batch size 6 .* 4 devices .* multiple of 4"):
        check_batch_size(mesh, 6)
    with pytest.raises(UserError, match="2 microbatches"):
        check_batch_size(mesh, 12, num_microbatches=2)


def single_device_leaves(state):
    return [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(state)]


def test_a_state_is_created_in_place():
    run_setup = setup(fsdp=4)
    optimizer, sampler = make_optimizer(1e-2, 100, clip_norm=1.0), history()

    def make(key):
        params = {"w": jax.random.normal(key, (8, 4))}
        return init_state(params, optimizer, timestep_state=sampler.init())

    placement = NamedSharding(run_setup.mesh, P())
    abstract = jax.eval_shape(make, jax.random.key(0))
    shardings = jax.tree.map(lambda _: placement, abstract)
    state = create_state(make, jax.random.key(0), shardings)
    assert state.params["w"].sharding == placement
    # Parameters and averages start equal; sharing a buffer would make donation fail.
    pointers = {leaf.unsafe_buffer_pointer() for leaf in single_device_leaves(state)}
    assert len(pointers) == len(jax.tree.leaves(state))
    template = abstract_with_shardings(abstract, shardings)
    assert template.params["w"].sharding == placement


def test_microbatches_keep_rows_on_their_device():
    """Cutting a sharded batch into blocks would send every row over the network."""
    run_setup = setup(data=4, num_microbatches=2)
    batch = run_setup.place(batch_at(0))
    text = run_setup.step.lower(run_setup.state, batch, ROOT).compile().as_text()
    assert "all-to-all" not in text
    assert "collective-permute" not in text


def test_the_step_needs_no_mesh():
    optimizer, sampler = make_optimizer(1e-2, 100, clip_norm=1.0), history()
    step = jax.jit(make_train_step(loss_fn, optimizer, sampler, num_timesteps=T))
    state = init_state(
        init_params(), optimizer, ema_rates=(0.9, 0.99), timestep_state=sampler.init()
    )
    _, metrics = step(state, batch_at(0), ROOT)
    np.testing.assert_allclose(metrics["total"], single_device()[0][0, 0], rtol=1e-6)
