"""A branch and its connection as one module, for networks whose code names neither."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax.connections.base import Connection
from hc_jax.connections.carry import Carry, join, split
from hc_jax.connections.factory import ConnectionLike, connection_factory

PyTree = Any


class Wrapped(nn.Module):
  """A branch at a connection; see `wrap`.

  Attributes:
    branch: a module, a function or a bound method, `branch(h, *args, **kwargs)`.
    connection: makes the connection, `connection(name="connection")`.
    axis: where the branch has its features, in its input and its output.
    dtype: of the branch input; the streams' own by default.
  """

  branch: Callable[..., PyTree]
  connection: Callable[..., Connection]
  axis: int = -1
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, carry: Carry, index: int | jax.Array, /, *args: Any, **kwargs: Any) -> PyTree:
    """Reads, runs the branch and writes.

    Args:
      carry: streams `[..., n, w]`; for a connection that carries its read, a pair of them and the
        read (None at the first site).
      index: which sublayer of the network this is, from 0.
      *args: for the branch, after its input.
      **kwargs: for the branch.

    Returns:
      The next streams, or pair of them and a read; where the branch returns a tuple, list or
      dataclass of several, the same with that in place of its first leaf.

    Raises:
      ValueError: if the branch output has another shape than its input.
      TypeError: if it has no first leaf that order alone decides.
    """
    connection = self.connection(name="connection")
    if connection.num_views > 1 and self.axis != -1:
      raise ValueError(f"axis={self.axis} needs num_views=1, not {connection.num_views}")
    streams, carried = split(carry)
    h, coefs = connection(streams, index, dtype=self.dtype, **carried)
    outputs = self.branch(jnp.moveaxis(h, -1, self.axis), *args, **kwargs)
    leaves, structure = jax.tree.flatten(outputs)
    _check_first(outputs)
    y = jnp.moveaxis(leaves[0], self.axis, -1)
    carry = join(connection.write(streams, y, coefs), coefs)
    return jax.tree.unflatten(structure, [carry, *leaves[1:]])


def wrap(
  branch: Callable[..., PyTree],
  connection: ConnectionLike,
  *,
  axis: int = -1,
  dtype: jax.typing.DTypeLike | None = None,
  name: str | None = None,
) -> Wrapped:
  """Any branch at a connection, as one module.

      streams = hc_jax.wrap(branch, connection)(streams, index, *args, **kwargs)

  The branch is called with the branch input and all further arguments, and may have parameters,
  batch statistics, caches and random numbers of its own. It returns its output, of its input's
  shape, or several things, the output first: `(y, cache)` becomes `(streams, cache)`.

  Args:
    branch: a module, a function that makes modules, a bound method.
    connection: a class of connection, a partial of one, or an instance; every wrap has its own
      parameters.
    axis: where the branch has its features; 1 for images `[B, C, H, W]`.
    dtype: of the branch input; the streams' own by default.
    name: of the module; its parameters are `name/connection/...` and, if the branch was made
      outside of a module, `name/branch/...`.
  """
  return Wrapped(branch, connection_factory(connection), axis=axis, dtype=dtype, name=name)


def connected(
  connection: ConnectionLike, **options: Any
) -> Callable[[Callable[..., PyTree]], Callable[..., PyTree]]:
  """A decorator that puts a function at a connection.

      @hc_jax.connected(hc_jax.HyperConnection(num_streams=4))
      def feed_forward(h, deterministic):
        ...
      streams = feed_forward(streams, index, deterministic)     # in a compact method

  Every call is a site with parameters of its own, and the function may make modules. Give
  `name=` to a call to name its site.

  Args:
    connection: as for `wrap`.
    **options: `axis` and `dtype` of `wrap`.
  """

  def decorate(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    @functools.wraps(function)
    def call(streams, index, /, *args, name: str | None = None, **kwargs):
      return wrap(function, connection, name=name, **options)(streams, index, *args, **kwargs)

    return call

  return decorate


def _check_first(outputs: PyTree) -> None:
  """A dict is flattened by its sorted keys, so that its first leaf is an accident of names."""
  path = next(iter(jax.tree_util.tree_flatten_with_path(outputs)[0]), ((), None))[0]
  node = outputs
  for key in path:
    if isinstance(node, Mapping):
      raise TypeError(
        f"wrap: the branch returned a dict ({', '.join(map(str, node))}), in which no leaf is "
        "first; return a tuple with the branch output first"
      )
    if isinstance(key, jax.tree_util.SequenceKey):
      node = node[key.idx]
    else:
      node = getattr(node, getattr(key, "name", ""), None)
  if not jax.tree.leaves(outputs):
    raise TypeError("wrap: the branch returned nothing; it must return its output")
