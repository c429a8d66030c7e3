import chex
import numpy as np
import pytest

from hc_jax.data import TokenArray, Windows, eval_batches, iterate, train_batches
from hc_jax.errors import UserError


def make_split(size, offsets=None, name="train"):
  offsets = np.asarray(offsets or [0, size], np.int64)
  return TokenArray(np.arange(size, dtype=np.uint16), offsets, size, name)


def test_windows_are_consecutive_and_targets_one_ahead():
  windows = Windows(make_split(11), 3)
  assert len(windows) == 3  # 10 targets: three windows and a tail of one
  np.testing.assert_array_equal(windows[1]["inputs"], [3, 4, 5])
  np.testing.assert_array_equal(windows[2]["targets"], [7, 8, 9])
  chex.assert_trees_all_equal_dtypes(
    windows[0], {"inputs": np.int32(0), "targets": np.int32(0), "mask": np.float32(0)}
  )


@pytest.mark.parametrize(("size", "count"), [(5, 1), (8, 1), (9, 2), (12, 2)])
def test_the_last_window_has_its_last_target(size, count):
  windows = Windows(make_split(size), 4)
  assert len(windows) == count
  chex.assert_shape(windows[count - 1]["targets"], (4,))


def test_batches_of_one_window():
  batches = train_batches(make_split(21), length=4, batch_size=1, seed=0)
  for workers in (0, 2):
    batch = next(iterate(batches, 3, workers))
    np.testing.assert_array_equal(batch["inputs"], batches[3]["inputs"])


@pytest.mark.parametrize(("name", "remedy"), [("train", "lower"), ("val", "raise")])
def test_too_short_a_split_says_how_much_is_needed(name, remedy):
  split = make_split(4, name=name)
  for batches in (train_batches, eval_batches):
    with pytest.raises(UserError, match=rf"{name}.* 4 tokens.*5.*{remedy} `val_fraction`"):
      batches(split, length=4, batch_size=1, **({"seed": 0} if batches is train_batches else {}))


def test_segments_by_hand():
  windows = Windows(make_split(13, [0, 2, 6, 7, 8, 13]), 4, document_mask=True)
  # positions 0..3: documents 0 0 1 1, target of position 1 starts document 1
  np.testing.assert_array_equal(windows[0]["segment_ids"], [1, 1, 2, 2])
  np.testing.assert_array_equal(windows[0]["mask"], [1, 0, 1, 1])
  # positions 4..7: documents 1 1 2 3, and the target of position 7 starts document 4
  np.testing.assert_array_equal(windows[1]["segment_ids"], [1, 1, 2, 3])
  np.testing.assert_array_equal(windows[1]["mask"], [1, 0, 0, 0])
  np.testing.assert_array_equal(windows[2]["segment_ids"], [1, 1, 1, 1])
  assert "segment_ids" not in Windows(windows.split, 4)[0]
  np.testing.assert_array_equal(Windows(windows.split, 4)[0]["mask"], np.ones(4))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**40])
def test_every_window_once_per_epoch_in_a_new_order(seed):
  size, batch_size = 12, 4
  batches = train_batches(make_split(12 * 5 + 1), length=5, batch_size=batch_size, seed=seed)
  per_epoch = size // batch_size
  epochs = []
  for epoch in range(3):
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    epochs.append([int(i) // 5 for step in steps for i in batches[step]["inputs"][:, 0]])
  assert all(sorted(order) == list(range(size)) for order in epochs)
  assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(size))


def test_batch_is_a_pure_function_of_seed_and_step():
  split = make_split(1001, [0, 100, 555, 1001])
  options = {"length": 10, "batch_size": 8, "document_mask": True}
  first = train_batches(split, seed=3, **options)
  there = [first[step] for step in range(30)]
  again = train_batches(split, seed=3, **options)
  back = [again[step] for step in reversed(range(30))][::-1]
  chex.assert_trees_all_equal(there, back)
  other = train_batches(split, seed=4, **options)
  assert any((other[step]["inputs"] != there[step]["inputs"]).any() for step in range(3))
  chex.assert_shape(list(there[0].values()), (8, 10))


def test_every_seed_has_an_order_of_its_own():
  split, orders = make_split(1001), set()
  seeds = (0, 1, -1, 2**31, 2**32, 2**32 + 1, 2**40)
  for seed in seeds:
    orders.add(train_batches(split, length=10, batch_size=50, seed=seed)[0]["inputs"].tobytes())
  assert len(orders) == len(seeds)


@pytest.mark.parametrize("count", [2, 4])
def test_the_rows_of_all_processes_are_the_batch(count):
  """For training and evaluation, the processes' rows in order are the rows of the whole batch."""
  split, options = make_split(1001 - 200), {"length": 10, "batch_size": 8}

  def whole_and_parts(make, **more):
    whole = make(split, **options, **more)
    return whole, [make(split, **options, **more, block=(i, count)) for i in range(count)]

  train, train_parts = whole_and_parts(train_batches, seed=3)
  val, val_parts = whole_and_parts(eval_batches)
  for whole, parts, steps in (
    (train, train_parts, (0, 1, 7, 30)),
    (val, val_parts, range(len(val))),
  ):
    for step in steps:
      rows = [part[step]["inputs"] for part in parts]
      chex.assert_shape(rows, (8 // count, 10))
      np.testing.assert_array_equal(np.concatenate(rows), whole[step]["inputs"])
  assert [len(part) for part in val_parts] == [len(val)] * count


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("start", [0, 17])
def test_reading_ahead_changes_nothing(workers, start):
  batches = train_batches(make_split(1001), length=10, batch_size=8, seed=3)
  stream = iterate(batches, start, workers)
  chex.assert_trees_all_equal(
    [next(stream) for _ in range(9)], [batches[start + i] for i in range(9)]
  )


def test_more_windows_in_a_batch_than_there_are():
  batch = train_batches(make_split(11), length=5, batch_size=6, seed=0)[0]
  assert sorted(batch["inputs"][:, 0]) == [0, 0, 0, 5, 5, 5]


@pytest.mark.parametrize("document_mask", [False, True])
def test_eval_batches_are_fixed_ordered_and_padded(document_mask):
  split = make_split(7 * 5 + 1, [0, 12, 36])

  def rows(batch_size, num_batches):
    batches = eval_batches(
      split, length=5, batch_size=batch_size, num_batches=num_batches, document_mask=document_mask
    )
    joined = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    real = joined["mask"].sum(-1) > 0
    assert (np.diff(real.astype(int)) <= 0).all()  # padding comes last
    assert all(not value[~real].any() for value in joined.values())
    return len(batches), {key: value[real] for key, value in joined.items()}

  count, whole = rows(4, None)
  assert count == 2
  np.testing.assert_array_equal(whole["inputs"][:, 0], np.arange(7) * 5)
  for batch_size, expected in [(1, 7), (3, 3), (7, 1), (9, 1)]:
    count, same = rows(batch_size, None)
    assert count == expected
    chex.assert_trees_all_equal(same, whole)
  chex.assert_trees_all_equal(rows(2, 3)[1], rows(3, 2)[1])
  np.testing.assert_array_equal(rows(2, 3)[1]["inputs"][:, 0], np.arange(6) * 5)


def test_eval_batches_are_a_sequence():
  batches = eval_batches(make_split(41), length=5, batch_size=3, num_batches=2)
  chex.assert_trees_all_equal(batches[-1], batches[1])
  assert len(batches[:1]) == 1
  with pytest.raises(IndexError):
    batches[2]


@pytest.mark.parametrize(
  "options", [{"batch_size": 0}, {"length": 0}, {"num_batches": 0}, {"batch_size": -1}]
)
def test_impossible_sizes(options):
  with pytest.raises(UserError):
    eval_batches(make_split(41), **({"length": 5, "batch_size": 2} | options))
