"""Checkpoints: which are kept, and reading on a mesh other than the writer's."""

import contextlib
import gc
import os

import chex
import jax
import jax.numpy as jnp
import pytest

from hc_jax import UserError, sharding
from hc_jax.runs import checkpoint, manifest
from hc_jax.runs.checkpoint import Checkpoints, best_step, folders_of, make_card, steps_of
from hc_jax.runs.restore import restore_newest
from hc_jax.train import StorageError, TrainState

DATA = {"fingerprint": "x", "tokenizer": "bytes", "vocab_size": 257}
CARD = {"config": {}, "conventions": {}, "data": DATA, "versions": {}}


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
      checkpoints.save(state(step), step, CARD, loss and ("val/loss", loss))
  assert steps_of(str(tmp_path)) == [2, 5, 6]
  assert best_step(str(tmp_path)) == 2
  # A later process knows the best as well.
  with Checkpoints(str(tmp_path), keep=1) as checkpoints:
    checkpoints.save(state(7), 7, CARD, ("val/loss", 1.5))
  assert steps_of(str(tmp_path)) == [2, 7]


def test_any_mesh_reads_what_another_wrote(tmp_path):
  mesh = sharding.make_mesh("fsdp", data=2, fsdp=4)
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", "data"))
  whole = sharding.replicated(mesh)
  place = lambda x: split if x.ndim == 2 else whole  # noqa: E731
  one = jax.sharding.SingleDeviceSharding(jax.devices()[3])
  saved = jax.tree.map(lambda x: jax.device_put(x, place(x)), state(4))
  with Checkpoints(str(tmp_path), keep=3) as checkpoints:
    checkpoints.save(saved, 4, CARD)
  on_one, card = restore_newest(str(tmp_path), target(lambda x: one))
  assert (card["data"], card["step"]) == (DATA, 4)
  assert on_one.params["kernel"].sharding == one
  with Checkpoints(str(tmp_path), keep=3) as checkpoints:
    checkpoints.save(on_one.replace(step=jnp.asarray(5, jnp.int32)), 5, CARD)
  on_eight, _ = restore_newest(str(tmp_path), target(place))
  assert on_eight.params["kernel"].sharding == split
  chex.assert_trees_all_equal(on_eight.params, state(4).params)
  assert int(on_eight.step) == 5


def test_the_state_may_be_given_up_as_soon_as_save_returns(tmp_path):
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  change = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
  now = state(3)
  with Checkpoints(str(tmp_path), keep=1) as checkpoints:
    checkpoints.save(now, 3, CARD)
    jax.block_until_ready(change(now))
  back, _ = restore_newest(str(tmp_path), target(lambda x: one))
  chex.assert_trees_all_equal(back, state(3))


def test_a_folder_that_was_never_finished_is_no_checkpoint(tmp_path):
  with Checkpoints(str(tmp_path), keep=1) as checkpoints:
    checkpoints.save(state(3), 3, CARD)
  os.makedirs(tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp")
  assert steps_of(str(tmp_path)) == [3]
  with Checkpoints(str(tmp_path), keep=1) as checkpoints:
    checkpoints.save(state(10), 10, CARD)
  assert os.listdir(tmp_path / "checkpoints") == ["10"]


def test_nothing_there_is_no_error(tmp_path):
  assert restore_newest(str(tmp_path), state()) is None
  assert best_step(str(tmp_path)) is None


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX's")
def test_a_real_write_that_fails_is_a_storage_error(tmp_path, caplog, capfd, recwarn):
  """Limits the file size, so that TensorStore's own writes fail as on a full disk."""
  import resource

  with Checkpoints(str(tmp_path), keep=2) as checkpoints:
    checkpoints.save(state(1), 1, CARD)
    checkpoints.wait()
  big = state(2).replace(params={"kernel": jax.random.normal(jax.random.key(0), (512, 512))})
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  broken = Checkpoints(str(tmp_path), keep=2)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
  try:
    with pytest.raises(StorageError, match=r"checkpoint .* could not be written: File too large"):
      broken.save(big, 2, CARD)
      broken.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with contextlib.suppress(Exception):
      broken.close()
  assert folders_of(str(tmp_path)) == [1]
  assert int(restore_newest(str(tmp_path), one())[0].step) == 1
  gc.collect()  # so that coroutines that nobody awaited give their warnings now
  noise = [*caplog.records, *recwarn, *capfd.readouterr()]
  assert not [item for item in noise if item], noise
  assert checkpoint.read_card(str(tmp_path), 1)["step"] == 1


def one():
  return target(lambda x: jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def test_saved_is_said_when_the_manifest_is_there_and_only_then_older_ones_go(
  tmp_path, monkeypatch
):
  events = []
  write = manifest.write

  def writing(folder, step):
    events.append(("manifest", step, folders_of(str(tmp_path)), steps_of(str(tmp_path))))
    write(folder, step)

  def saved(step, seconds, waited):
    events.append(("saved", step, folders_of(str(tmp_path)), steps_of(str(tmp_path))))
    assert seconds >= waited > 0

  monkeypatch.setattr(manifest, "write", writing)
  with Checkpoints(str(tmp_path), keep=1, saved=saved) as checkpoints:
    checkpoints.save(state(1), 1, CARD)
    checkpoints.save(state(2), 2, CARD)
  assert events == [
    ("manifest", 1, [1], []),
    ("saved", 1, [1], [1]),
    ("manifest", 2, [1, 2], [1]),
    ("saved", 2, [1, 2], [1, 2]),
  ]
  assert folders_of(str(tmp_path)) == [2]


def test_a_first_save_that_was_killed_before_its_manifest_means_to_begin_anew(tmp_path):
  with Checkpoints(str(tmp_path), keep=1) as checkpoints:
    checkpoints.save(state(1), 1, CARD)
  os.unlink(tmp_path / "checkpoints/1/manifest.json")
  said = []
  assert steps_of(str(tmp_path)) == []
  assert restore_newest(str(tmp_path), one(), said.append) is None
  assert said == [
    "checkpoint 1 is passed over: no manifest.json: its save did not come to an end",
    f"checkpoint 1 is moved to {tmp_path}/rejected/1",
  ]
  with Checkpoints(str(tmp_path), keep=1) as checkpoints:
    checkpoints.save(state(1), 1, CARD)
  assert int(restore_newest(str(tmp_path), one())[0].step) == 1


def test_several_without_a_manifest_are_no_killed_first_save(tmp_path):
  with Checkpoints(str(tmp_path), keep=2) as checkpoints:
    for step in (1, 2):
      checkpoints.save(state(step), step, CARD)
  for step in (1, 2):
    os.unlink(tmp_path / f"checkpoints/{step}/manifest.json")
  with pytest.raises(UserError, match=r"none of the checkpoints .* is good: 2: no manifest"):
    restore_newest(str(tmp_path), one())
  assert folders_of(str(tmp_path)) == [1, 2]


def test_a_good_checkpoint_of_another_shape_is_not_called_damaged(tmp_path):
  with Checkpoints(str(tmp_path), keep=2) as checkpoints:
    checkpoints.save(state(1), 1, CARD)
  other = one()
  other = other.replace(params={"another": other.params["kernel"]})
  with pytest.raises(UserError, match=r"as it was written, but does not fit") as caught:
    restore_newest(str(tmp_path), other)
  assert "\n" not in str(caught.value)
  assert folders_of(str(tmp_path)) == [1]


def test_what_a_killed_removal_left_is_removed(tmp_path):
  with Checkpoints(str(tmp_path), keep=1) as checkpoints:
    checkpoints.save(state(2), 2, CARD)
  os.makedirs(tmp_path / "checkpoints/1/params")
  with Checkpoints(str(tmp_path), keep=1) as checkpoints:
    checkpoints.save(state(3), 3, CARD)
  assert folders_of(str(tmp_path)) == [3]


def test_maps_of_the_other_orientation_are_refused_by_card_and_by_shape(tmp_path):
  """The card decides for a square mix, whose shape does not show it; read and write show it."""
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  site = {"connection": {"static_read": jnp.ones((1, 2)), "static_mix": jnp.eye(2)}}
  saved = state(1).replace(params=site)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), saved)
  cards = {
    1: make_card("language_model", {}, DATA),
    2: CARD | {"conventions": {"orientation": "A_r"}},
  }
  with Checkpoints(str(tmp_path), keep=3) as checkpoints:
    checkpoints.save(saved, 1, cards[1])
    checkpoints.wait()
    assert restore_newest(str(tmp_path), shapes) is not None
    transposed = jax.ShapeDtypeStruct((2, 1), jnp.float32, sharding=one)
    params = {"connection": {**shapes.params["connection"], "static_read": transposed}}
    with pytest.raises(
      UserError, match=r"static_read is \(1, 2\), and \(2, 1\) is expected: .* other orientation"
    ):
      restore_newest(str(tmp_path), shapes.replace(params=params))
    checkpoints.save(saved.replace(step=jnp.asarray(2, jnp.int32)), 2, cards[2])
  with pytest.raises(UserError, match=r"its maps are 'A_r'; this version reads 'read \[v, n\]"):
    restore_newest(str(tmp_path), shapes)
  assert steps_of(str(tmp_path)) == [1, 2]  # not moved aside, because it is whole
