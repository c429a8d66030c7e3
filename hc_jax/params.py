"""Facts about a parameter tree that follow from its paths: weight decay and counts."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import jax
import numpy as np

from hc_jax.axes import unboxed
from hc_jax.connections import (
  CONNECTIONS,
  Connection,
  Expand,
  Reduce,
  declared_decays,
  declared_names,
  is_free,
)
from hc_jax.errors import UserError

PyTree = Any

# Whether a parameter of another module decays, by the last word of its name. The rank cannot
# decide, because it differs between scanned and unrolled layers. The paper decays dynamic kernels
# and no static part.
DECAYS = {"kernel": True, "embedding": True}
DECAYS |= {"scale": False, "bias": False, "gamma": False, "beta": False}
# A scanned layer of this package's models: its parameters begin with an axis of layers.
_SCANNED = re.compile(r"(^|/)stack/([^/]+/)?layers/")


@dataclasses.dataclass(frozen=True)
class ParamCount:
  """Numbers of parameters.

  Attributes:
    total: number of all parameters.
    embedding: number in token and position embeddings (a tied output layer counts once).
    connection: number in connections and in learned ends of the streams.
  """

  total: int
  embedding: int
  connection: int


def decay_mask(
  params: PyTree,
  *,
  rules: Iterable[tuple[str, bool]] = (),
  default: bool | Literal["rank", "error"] = "rank",
) -> PyTree:
  """Returns a tree of bools, true for the parameters that weight decay applies to.

  For each parameter the first rule that applies decides:

  1. The first of your `rules` whose pattern is found in its path.
  2. Its name. Registered connections declare whether their parameters decay. Otherwise kernels and
     embeddings decay, but `static_*`, scales, biases, gammas and betas do not.
  3. The `default`.

  Args:
    params: tree of arrays or `jax.ShapeDtypeStruct`s: Linen's parameters, an NNX state, or other.
    rules: pairs (regular expression, whether to decay), searched in a parameter's path "a/b/name".
    default: True, False, "error", or "rank": arrays of two axes or more decay. An axis of layers
      counts, except in `hc_jax.models`: give a rule for an unknown vector in `nn.scan`.

  Raises:
    UserError: if `default` is "error" and neither a rule nor the name of a parameter decides.
    ValueError: if `default` is unknown.
  """
  if default not in (True, False, "rank", "error"):
    raise ValueError(f'default={default!r} is unknown; use True, False, "rank" or "error"')
  given = tuple((re.compile(pattern), bool(decay)) for pattern, decay in rules)

  def decays(path, leaf):
    name = path_name(path)
    return _decays(name, np.ndim(leaf) - bool(_SCANNED.search(name)), given, default)

  return jax.tree_util.tree_map_with_path(decays, unboxed(params))


def _decays(path: str, rank: int, rules: tuple, default: bool | str) -> bool:
  """Returns whether the parameter at `path` decays; see `decay_mask`."""
  for pattern, decay in rules:
    if pattern.search(path):
      return decay
  name = path.rsplit("/", 1)[-1]
  declared = declared_decays(CONNECTIONS.values())
  if name in declared:
    return declared[name]
  if name.startswith("static_"):
    return False
  if (word := name.rsplit("_", 1)[-1]) in DECAYS:
    return DECAYS[word]
  if default == "error":
    raise UserError(
      f"parameter {path!r} is unknown to weight decay; give decay_mask a rule for it, "
      f"rules=(({re.escape(path)!r}, True or False),), or another default"
    )
  return rank > 1 if default == "rank" else bool(default)


def param_count(params: PyTree) -> ParamCount:
  """Counts the parameters of a tree of arrays or of `jax.ShapeDtypeStruct`s.

  Paths alone decide the kind of a parameter, because a tree has no classes. Embeddings are
  parameters whose name ends in "embedding". For connections see `is_connection`; a connection whose
  name ends in "connection" is always found.

  Returns:
    The numbers of all parameters, of embeddings, and of connections.
  """
  total = embedding = connection = 0
  for path, leaf in named_leaves(params):
    size = int(np.prod(leaf.shape, dtype=np.int64))
    total += size
    embedding += size * path.endswith("embedding")
    connection += size * is_connection(path)
  return ParamCount(total=total, embedding=embedding, connection=connection)


def is_connection(path: str) -> bool:
  """Returns whether the parameter at `path` ("a/b/name") belongs to a connection.

  A tree of arrays has paths and no classes, so names decide. It does if

  * a module of the path is named `connection` or `..._connection`, however deep below it the
    parameter lies;
  * Flax named the module that holds it for a variant that declares a parameter of that name
    (`HyperConnection_0/static_mix`), or any module above it for a variant of the free form;
  * it is declared by a learned end of the streams, which a residual network lacks: held by
    `expand_streams` or `reduce_streams`, or by `Expand_0` or `Reduce_0`.

  Variants are those in `hc_jax.CONNECTIONS` and all imported subclasses of `hc_jax.Connection`.
  Name a connection of another name `..._connection`, and nothing else so.
  """
  *modules, name = path.split("/")
  kinds = [_without_number(module) for module in modules]
  if any(kind.lower().rsplit("_", 1)[-1] == "connection" for kind in kinds):
    return True
  classes = {*_subclasses(Connection), *CONNECTIONS.values()}
  if any(is_free(cls) for cls in classes if cls.__name__ in kinds):
    return True
  holder = kinds[-1] if kinds else ""
  if found := [cls for cls in classes if cls.__name__ == holder]:
    return any(name in declared_names(cls) for cls in found)
  return any(
    name in end.NAMES and f"_{holder}".endswith((f"_{end.__name__}", f"_{field}"))
    for end, field in ((Expand, "expand_streams"), (Reduce, "reduce_streams"))
  )


def _without_number(module: str) -> str:
  """Returns the name of a module without the number that Flax appends: "Expand" of "Expand_0"."""
  head, _, number = module.rpartition("_")
  return head if head and number.isdigit() else module


def _subclasses(cls: type) -> Iterator[type]:
  for sub in cls.__subclasses__():
    yield sub
    yield from _subclasses(sub)


def check_shapes(found: PyTree, expected: PyTree) -> None:
  """Raises ValueError unless loaded parameters have the names and shapes of a model.

  A square mix has the same shape in both orientations, so that only read and write can reveal a
  transposed site. Therefore keep a note of the orientation with weights, as checkpoints do.

  Args:
    found: loaded arrays, or any leaves with a shape.
    expected: parameters of the model, such as `jax.eval_shape(model.init, ...)["params"]`.

  Raises:
    ValueError: if names or shapes differ. The message says so if read or write is transposed, or if
      one side has scanned and the other unrolled layers.
  """
  have = {path: tuple(leaf.shape) for path, leaf in named_leaves(found)}
  want = {path: tuple(leaf.shape) for path, leaf in named_leaves(expected)}
  for path in sorted(want.keys() & have.keys()):
    shape, wanted = have[path], want[path]
    if shape == wanted:
      continue
    if is_connection(path) and shape == (*wanted[:-2], *wanted[:-3:-1]):
      raise ValueError(
        f"{path} is {shape}, and {wanted} is expected: it is of the other orientation. Here read "
        "is [v, n], write [n, v], and mix[i, j] carries stream j into stream i (the paper's A_m, B "
        "and A_r are their transposes); transpose read, mix and write together"
      )
    raise ValueError(
      f"{path} is {shape}, and {wanted} is expected: another size of model, or another connection"
    )
  missing, unknown = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
  if not missing and not unknown:
    return
  scanned = [any("/layers/" in f"/{path}" for path in paths) for paths in (missing, unknown)]
  remedy = ""
  if scanned[0] != scanned[1]:
    convert = "stack_layers" if scanned[0] else "unstack_layers"
    remedy = f"; hc_jax.models.{convert} converts them"
  parts = [
    f"{len(paths)} {what}, such as {paths[0]}"
    for what, paths in (("missing", missing), ("that it does not have", unknown))
    if paths
  ]
  raise ValueError(f"these are not the model's parameters: {'; '.join(parts)}{remedy}")


def named_leaves(params: PyTree) -> Iterator[tuple[str, Any]]:
  """Yields the paths "a/b/name" of a tree and its leaves, without partitioning metadata."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(unboxed(params)):
    yield path_name(path), leaf


def path_name(path: tuple) -> str:
  """Returns a path of `jax.tree_util` as "a/b/name", without NNX's `value` at its end.

  An attribute of that name is a box of NNX or Linen; your own parameter of that name is a key.
  """
  if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
    path = path[:-1]
  return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
