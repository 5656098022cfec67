"""Collectives counted from compiled programs: kinds, repetitions in loops, bytes, axes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from diffusion_jax.scale.collectives import collectives, summary
from diffusion_jax.scale.hlo import parse_hlo
from diffusion_jax.scale.mesh import make_mesh

SIZES = {"data": 2, "fsdp": 2, "tensor": 2}

# The notations of a TPU's program that a CPU's never has, cut down to what is read.
TPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=16

%cond (carry.1: (s32[], f32[8])) -> pred[] {
  %carry.1 = (s32[]{:T(128)}, f32[8]{0:T(128)S(1)}) parameter(0)
  %limit = s32[]{:T(128)} constant(7)
  %i = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%all-reduce-scatter.1 (in: bf16[64,32]) -> bf16[8,32] {
  %in = bf16[64,32]{1,0} parameter(0)
  %sum = bf16[64,32]{1,0} all-reduce(%in), channel_id=3, \
replica_groups={{0,1,2,3,4,5,6,7},{8,9,10,11,12,13,14,15}}, to_apply=%add
  ROOT %part = bf16[8,32]{1,0} dynamic-slice(%sum, %sum), dynamic_slice_sizes={8,32}
}

%started (p: f32[8]) -> f32[64] {
  %p = f32[8]{0} parameter(0)
  ROOT %gather.1 = f32[64]{0} all-gather(%p), channel_id=4, \
replica_groups=mesh['a'=8,'b'=2], device_ids=([2,8]T(1,0)) {'a'}, dimensions={0}
}

%ended (r: f32[8]) -> f32[64] {
  %r = f32[8]{0} parameter(0)
  ROOT %gather.2 = f32[64]{0} all-gather(%r), channel_id=4, \
replica_groups=mesh['a'=8,'b'=2], device_ids=([2,8]T(1,0)) {'a'}, dimensions={0}
}

%wrapped (w: f32[8]) -> f32[8] {
  %w = f32[8]{0} parameter(0)
  ROOT %swap = f32[8]{0} all-to-all(%w), channel_id=12, replica_groups=[8,2]<=[16], dimensions={0}
}

%body (carry: (s32[], f32[8])) -> (s32[], f32[8]) {
  %carry = (s32[]{:T(128)}, f32[8]{0:T(128)S(1)}) parameter(0)
  %x = f32[8]{0:T(128)S(1)} get-tuple-element(%carry), index=1
  %y = bf16[64,32]{1,0} fusion(%x), kind=kLoop, calls=%convert
  %scattered = bf16[8,32]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1
  %begin = f32[64]{0} fusion(%x), kind=kOutput, calls=%started
  ROOT %next = (s32[], f32[8]) tuple(%x, %x)
}

%convert (q: f32[8]) -> bf16[64,32] {
  %q = f32[8]{0} parameter(0)
  ROOT %c = bf16[64,32]{1,0} broadcast(%q), dimensions={}
}

ENTRY %main (arg: f32[8]) -> f32[8] {
  %arg = f32[8]{0} parameter(0)
  %two = s32[] constant(2)
  %start = (s32[], f32[8]) tuple(%two, %arg)
  %loop = (s32[], f32[8]) while(%start), condition=%cond, body=%body
  %end = f32[64]{0} fusion(%arg), kind=kOutput, calls=%ended
  %alone = f32[8]{0} all-reduce(%arg), channel_id=9, replica_groups={{0},{1}}, to_apply=%add
  %moved = f32[8]{0} collective-permute(%arg), channel_id=11, source_target_pairs={{0,1},{1,0}}
  %going = ((f32[8]), f32[8]) async-start(%arg), calls=%wrapped
  %gone = f32[8]{0} async-done(%going), calls=%wrapped
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=1
}
"""


def compiled(fn):
    mesh, spec = make_mesh(**SIZES), P(("data", "fsdp", "tensor"))
    mapped = jax.shard_map(fn, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return jax.jit(mapped).lower(jax.ShapeDtypeStruct((16, 4), jnp.float32)).compile().as_text()


def repeat(times, fn):
    """Run a function that keeps the shape in a loop, so that nothing can be folded away."""

    def looped(x):
        def body(carry, _):
            return jnp.sin(fn(carry)), None

        return jax.lax.scan(body, x, None, length=times)[0]

    return looped


@pytest.mark.parametrize(
    ("fn", "kind", "axes", "payload", "sent"),
    [
        # Each device holds [2, 4] float32: 32 bytes.
        (lambda x: jax.lax.psum(x, "fsdp"), "all-reduce", "fsdp", 32, 32),
        (lambda x: jax.lax.psum(x, ("data", "tensor")), "all-reduce", "data+tensor", 32, 48),
        (lambda x: jax.lax.all_gather(x, "data")[1], "all-gather", "data", 64, 32),
        (
            lambda x: jnp.tile(jax.lax.psum_scatter(x, "tensor", tiled=True), (2, 1)),
            "reduce-scatter",
            "tensor",
            32,
            16,
        ),
        (lambda x: jax.lax.all_to_all(x, "data", 0, 0), "all-to-all", "data", 32, 16),
        (lambda x: jax.lax.ppermute(x, "tensor", [(0, 1), (1, 0)]), "collective-permute", "tensor",
         32, 32),
    ],
)  # fmt: skip
def test_each_kind_in_a_loop(fn, kind, axes, payload, sent):
    text = compiled(repeat(5, fn))
    (row,) = summary(collectives(text), SIZES)
    assert (row["kind"], row["over"], row["operations"], row["times"]) == (kind, axes, 1, 5)
    assert (row["payload_bytes"], row["sent_bytes"]) == (5 * payload, 5 * sent)


def test_loops_in_loops_multiply():
    inner = repeat(3, lambda x: jax.lax.psum(x, "data"))
    (item,) = collectives(compiled(repeat(4, inner)))
    assert item.times == 12
    assert item.certain


def test_a_program_without_communication_has_none():
    assert collectives(compiled(repeat(2, jnp.cos))) == []


def test_the_tpus_notations():
    found = {item.kind: item for item in collectives(TPU)}
    assert set(found) == {"reduce-scatter", "all-gather", "collective-permute", "all-to-all"}
    # From 2 to 7: five times; the gather that is started in the loop and ended after it counts
    # once per turn.
    assert found["reduce-scatter"].times == 5
    assert found["reduce-scatter"].payload_bytes == 64 * 32 * 2
    assert found["reduce-scatter"].axes({"data": 2, "fsdp": 8}) == ("fsdp",)
    assert found["all-gather"].times == 5
    assert found["all-gather"].payload_bytes == 64 * 4
    # Axis 'a' of the program's own mesh runs over every device of one row of ours.
    assert found["all-gather"].groups[0] == (0, 1, 2, 3, 4, 5, 6, 7)
    assert found["collective-permute"].group_size == 2
    assert found["all-to-all"].times == 1
    assert found["all-to-all"].axes({"data": 8, "fsdp": 2}) == ("fsdp",)


def test_groups_that_follow_no_axis_have_no_name():
    (item,) = [c for c in collectives(TPU) if c.kind == "reduce-scatter"]
    assert item.axes({"data": 4, "fsdp": 4}) == ()
    assert summary([item], {"data": 4, "fsdp": 4})[0]["over"] == "8 devices"


def test_a_loop_of_unknown_length_is_said_to_be_one():
    items = collectives(parse_hlo(TPU.replace("direction=LT", "direction=NE")))
    assert [item.times for item in items if item.kind == "reduce-scatter"] == [1]
    assert not any(item.certain for item in items if item.kind == "reduce-scatter")
    assert all(item.certain for item in items if item.kind == "collective-permute")


def test_text_that_is_no_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse_hlo("hello")
