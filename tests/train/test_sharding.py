"""Meshes and sharding rules: arrays are split by the rules, and useless settings are refused."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from hc_jax import UserError, axes, sharding


def test_one_size_may_be_the_rest():
  mesh = sharding.make_mesh("fsdp_tp", data=-1, fsdp=2, tensor=2)
  assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
  assert set(mesh.axis_types) == {AxisType.Auto}  # Explicit turns constraints into assertions


@pytest.mark.parametrize(
  ("preset", "sizes", "message"),
  [
    ("fsdp", {"data": 1, "fsdp": 3}, r"data 1 \* fsdp 3 \* tensor 1\) does not fit 8 devices"),
    ("fsdp", {"fsdp": 3}, r"8 / 3 is no integer"),
    ("fsdp", {"data": -1, "fsdp": -1}, "only one can be the rest"),
    ("fsdp", {"data": 0}, "at least 1"),
    ("dp", {"fsdp": 2}, r"`fsdp=2` does nothing under `preset=dp`"),
    ("fsdp", {"tensor": 2, "fsdp": 4}, r"use `preset=fsdp_tp`"),
    ("fsdp", {}, r"splits nothing over fsdp when `fsdp=1`"),
    ("zero3", {}, "choose one of dp, fsdp, fsdp_tp"),
  ],
)
def test_meshes_that_cannot_be_or_do_nothing_are_refused(preset, sizes, message):
  with pytest.raises(UserError, match=message):
    sharding.make_mesh(preset, **sizes)


def test_batches_that_do_not_divide_are_refused_with_the_arithmetic():
  mesh = sharding.make_mesh("fsdp_tp", data=2, fsdp=2, tensor=2)
  check = {"batch_size": 16, "accumulation": 2, "length": 8}
  sharding.check_batch(mesh, "fsdp_tp", **check)
  with pytest.raises(UserError, match=r"5\.33333 sequences .* a multiple of 12 for `batch_size`"):
    sharding.check_batch(mesh, "fsdp_tp", **check | {"accumulation": 3})
  with pytest.raises(
    UserError, match=r"2 sequences a micro-step .* 2 / 4 = 0\.5; use a multiple of 32"
  ):
    sharding.check_batch(mesh, "fsdp_tp", **check | {"accumulation": 8})
  with pytest.raises(UserError, match=r"`length=7` .* 7 / 2 = 3\.5"):
    sharding.check_batch(mesh, "fsdp_tp", **check | {"length": 7})
  # With three different sizes, each is at the right axis.
  mesh = sharding.make_mesh("fsdp_tp", data=1, fsdp=2, tensor=4)
  sharding.check_batch(mesh, "fsdp_tp", batch_size=6, accumulation=3, length=4)
  with pytest.raises(UserError, match=r"`length=6` .* `tensor=4`: 6 / 4 = 1\.5"):
    sharding.check_batch(mesh, "fsdp_tp", batch_size=6, accumulation=3, length=6)
  sharding.check_batch(mesh, "fsdp", batch_size=6, accumulation=3, length=6)


def test_a_batch_is_split_over_data_and_fsdp_together():
  mesh = sharding.make_mesh("fsdp_tp", data=2, fsdp=2, tensor=2)
  assert sharding.batch_sharding(mesh).shard_shape((8, 3)) == (2, 3)
  assert sharding.replicated(mesh).shard_shape((8, 3)) == (8, 3)


def of_processes(*numbers, tensor=1):
  """Returns a mesh for `process_block`, from the process number of each device."""
  devices = np.array([types.SimpleNamespace(process_index=i) for i in numbers])
  return types.SimpleNamespace(devices=devices, shape={"tensor": tensor})


def test_a_process_reads_the_rows_that_its_devices_hold():
  for mesh, blocks in (
    (of_processes(0, 0, 1, 1), [(0, 2), (1, 2)]),
    (of_processes(0, 1, 2, 3), [(0, 4), (1, 4), (2, 4), (3, 4)]),
    (of_processes(0, 0, 1, 1, tensor=2), [(0, 2), (1, 2)]),  # a row each, over both devices
    (of_processes(0, 0, 1, 1, 2, 2, 3, 3, tensor=4), [(0, 2), (0, 2), (1, 2), (1, 2)]),
    (of_processes(0, 0, 0), [(0, 1)]),
  ):
    assert [sharding.process_block(mesh, i) for i in range(len(blocks))] == blocks
  with pytest.raises(UserError, match=r"process 0 would hold the parts \[0, 2\] of 4"):
    sharding.process_block(of_processes(0, 1, 0, 1), 0)


def test_constraints_by_name_are_really_applied():
  mesh = sharding.make_mesh("fsdp_tp", data=2, fsdp=2, tensor=2)
  streams = jnp.zeros((4, 8, 2, 16))
  heads = jnp.zeros((4, 8, 2, 16))
  with sharding.use_mesh(mesh, "fsdp_tp"):
    between = jax.jit(lambda x: axes.constrain(x, axes.stream_axes(4)))(streams)
    names = (axes.BATCH, axes.LENGTH, axes.HEADS, None)
    inside = jax.jit(lambda x: axes.constrain(x, names))(heads)
  # The tensor axis splits the length between blocks and the heads inside attention.
  assert between.sharding.is_equivalent_to(spec(mesh, ("data", "fsdp"), "tensor"), 4)
  assert inside.sharding.is_equivalent_to(spec(mesh, ("data", "fsdp"), None, "tensor"), 4)


def spec(mesh, *names):
  return jax.sharding.NamedSharding(mesh, P(*names))


def test_parameters_that_do_not_divide():
  mesh = sharding.make_mesh("fsdp_tp", data=1, fsdp=2, tensor=4)

  def boxed(shape, *names):
    return {"kernel": nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)}

  # A vocabulary of 257 (bytes) is not split; other sizes that do not divide are refused.
  whole = sharding.param_shardings(boxed((257, 16), "vocab", "embed"), mesh, "fsdp_tp")
  assert whole["kernel"].spec == P(None, "fsdp")
  split = sharding.param_shardings(boxed((256, 16), "vocab", "embed"), mesh, "fsdp_tp")
  assert split["kernel"].spec == P("tensor", "fsdp")
  with pytest.raises(
    UserError, match=r"parameter kernel \(16, 3\): its axis 'kv_heads' of 3 .* 3 / 4"
  ):
    sharding.param_shardings(boxed((16, 3), "embed", "kv_heads"), mesh, "fsdp_tp")
