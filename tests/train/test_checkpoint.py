"""Checkpoints: what is kept, and that any mesh reads what another wrote."""

import contextlib
import os

import chex
import jax
import jax.numpy as jnp
import pytest

from hc_jax import sharding
from hc_jax.train import StorageError, TrainState, checkpoint
from hc_jax.train.checkpoint import Checkpoints, best_step, restore_newest, steps_of


def state(step=0, where=None):
  made = TrainState(
    step=jnp.asarray(step, jnp.int32),
    params={"kernel": jnp.arange(64.0).reshape(8, 8) + step},
    opt_state=({"mu": jnp.full((8, 8), 0.5)}, jnp.asarray(step)),
    rng=jax.random.key_data(jax.random.key(1)),
  )
  return jax.device_put(made, where or jax.devices()[0])


def target(where):
  shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where(x))  # noqa: E731
  return jax.tree.map(shape, state())


def test_the_last_and_the_best_are_kept(tmp_path):
  losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 2.5, 6: None}
  with Checkpoints(str(tmp_path), keep=2) as checkpoints:
    for step, loss in losses.items():
      checkpoints.save(state(step), step, {}, loss)
  assert steps_of(str(tmp_path)) == [2, 5, 6]
  assert best_step(str(tmp_path)) == 2
  # The next process knows the best too.
  with Checkpoints(str(tmp_path), keep=1) as checkpoints:
    checkpoints.save(state(7), 7, {}, 1.5)
  assert steps_of(str(tmp_path)) == [2, 7]


def test_any_mesh_reads_what_another_wrote(tmp_path):
  mesh = sharding.make_mesh("fsdp", data=2, fsdp=4)
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", "data"))
  whole = sharding.replicated(mesh)
  place = lambda x: split if x.ndim == 2 else whole  # noqa: E731
  one = jax.sharding.SingleDeviceSharding(jax.devices()[3])
  saved = jax.tree.map(lambda x: jax.device_put(x, place(x)), state(4))
  with Checkpoints(str(tmp_path), keep=3) as checkpoints:
    checkpoints.save(saved, 4, {"data": "x"})
  on_one, card = restore_newest(str(tmp_path), target(lambda x: one))
  assert (card["data"], card["step"]) == ("x", 4)
  assert on_one.params["kernel"].sharding == one
  with Checkpoints(str(tmp_path), keep=3) as checkpoints:
    checkpoints.save(on_one.replace(step=jnp.asarray(5, jnp.int32)), 5, {})
  on_eight, _ = restore_newest(str(tmp_path), target(place))
  assert on_eight.params["kernel"].sharding == split
  chex.assert_trees_all_equal(on_eight.params, state(4).params)
  assert int(on_eight.step) == 5


def test_the_state_may_be_given_up_as_soon_as_save_returns(tmp_path):
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  change = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
  now = state(3)
  with Checkpoints(str(tmp_path), keep=1) as checkpoints:
    checkpoints.save(now, 3, {})
    jax.block_until_ready(change(now))
  back, _ = restore_newest(str(tmp_path), target(lambda x: one))
  chex.assert_trees_all_equal(back, state(3))


def test_a_folder_that_was_never_finished_is_no_checkpoint(tmp_path):
  with Checkpoints(str(tmp_path), keep=1) as checkpoints:
    checkpoints.save(state(3), 3, {})
  os.makedirs(tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp")
  assert steps_of(str(tmp_path)) == [3]
  with Checkpoints(str(tmp_path), keep=1) as checkpoints:
    checkpoints.save(state(10), 10, {})
  assert os.listdir(tmp_path / "checkpoints") == ["10"]


def test_nothing_there_is_no_error(tmp_path):
  assert restore_newest(str(tmp_path), state()) is None
  assert best_step(str(tmp_path)) is None


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX's")
def test_a_real_write_that_fails_is_a_storage_error(tmp_path):
  """A limit on file size makes TensorStore's own writes fail, as a full disk does."""
  import resource

  with Checkpoints(str(tmp_path), keep=2) as checkpoints:
    checkpoints.save(state(1), 1, {})
    checkpoints.wait()
  big = state(2).replace(params={"kernel": jax.random.normal(jax.random.key(0), (512, 512))})
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  broken = Checkpoints(str(tmp_path), keep=2)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
  try:
    with pytest.raises(StorageError, match=r"checkpoint .* could not be written: File too large"):
      broken.save(big, 2, {})
      broken.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with contextlib.suppress(Exception):
      broken.close()
  assert steps_of(str(tmp_path)) == [1]
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  assert int(restore_newest(str(tmp_path), target(lambda x: one))[0].step) == 1
  assert checkpoint.read_card(str(tmp_path), 1)["step"] == 1
