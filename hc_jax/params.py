"""Facts about a parameter tree that follow from its paths: weight decay and counts."""

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from hc_jax.axes import unboxed
from hc_jax.connections import CONNECTIONS
from hc_jax.errors import UserError

PyTree = Any

# Whether a parameter decays, by its name: the first pattern found decides. Never by its rank, which
# differs between scanned and unrolled layers. The paper decays dynamic kernels and no static part.
DECAY_RULES: tuple[tuple[str, bool], ...] = (
  (r"^static_", False),
  (r"(^|_)(scale|bias)$", False),
  (r"(^|_)(kernel|embedding)$", True),
)


@dataclasses.dataclass(frozen=True)
class ParamCount:
  """Numbers of parameters.

  Attributes:
    total: all.
    embedding: those of token and position embeddings (a tied output layer included, once).
    connection: those of the connections, learned ends of the streams included.
  """

  total: int
  embedding: int
  connection: int


def decay_mask(params: PyTree) -> PyTree:
  """Which parameters weight decay applies to, as a tree of bools.

  Raises:
    UserError: if a parameter's name fits no rule of `DECAY_RULES`.
  """
  return jax.tree_util.tree_map_with_path(lambda path, _: decays(path_name(path)), unboxed(params))


def decays(path: str) -> bool:
  """Whether the parameter at `path` ("a/b/name") decays.

  Raises:
    UserError: if its name fits no rule of `DECAY_RULES`.
  """
  name = path.rsplit("/", 1)[-1]
  for pattern, decay in DECAY_RULES:
    if re.search(pattern, name):
      return decay
  raise UserError(
    f"whether parameter {path!r} decays is undecided: end its name in kernel or embedding if it "
    "does, in scale or bias (or begin it with static_) if it does not"
  )


def param_count(params: PyTree) -> ParamCount:
  """Counts the parameters of a tree of arrays or of `jax.ShapeDtypeStruct`s."""
  total = embedding = connection = 0
  for path, leaf in named_leaves(params):
    size = int(np.prod(leaf.shape, dtype=np.int64))
    total += size
    embedding += size * path.endswith("embedding")
    connection += size * is_connection(path)
  return ParamCount(total=total, embedding=embedding, connection=connection)


def is_connection(path: str) -> bool:
  """Whether the parameter at `path` ("a/b/name") belongs to a connection."""
  pattern = _connection_pattern(tuple(cls.__name__ for cls in CONNECTIONS.values()))
  return any(pattern.search(module) for module in path.split("/")[:-1])


@functools.cache
def _connection_pattern(classes: tuple[str, ...]) -> re.Pattern:
  """A module of a tree is a connection if its name says so or is Flax's own for its class.

  The learned ends of streams (`models.Expand`, `models.Reduce`) count as connections: a residual
  network has neither.
  """
  named = r"(?i:(^|_)connection(_\d+)?$)"
  ends = r"(^|_)(expand|reduce)_streams$|^(Expand|Reduce)_\d+$"
  return re.compile("|".join([named, ends, *(rf"^{name}_\d+$" for name in classes)]))


def named_leaves(params: PyTree) -> Iterator[tuple[str, Any]]:
  """The leaves of a tree with their paths, as "a/b/name"; partitioning metadata is taken off."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(unboxed(params)):
    yield path_name(path), leaf


def path_name(path: tuple) -> str:
  """A path of `jax.tree_util` as "a/b/name"."""
  return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
