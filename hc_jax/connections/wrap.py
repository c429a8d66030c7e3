"""A branch and its connection as one module."""

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
  """Module of a branch and its connection; `wrap` makes it.

  Attributes:
    branch: a module, a function or a bound method, `branch(h, *args, **kwargs)`.
    connection: factory of the connection, `connection(name="connection")`.
    axis: the axis of the features in the branch's input and output.
    dtype: dtype of the branch input; the streams' own by default.
  """

  branch: Callable[..., PyTree]
  connection: Callable[..., Connection]
  axis: int = -1
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, carry: Carry, index: int | jax.Array, /, *args: Any, **kwargs: Any) -> PyTree:
    """Reads the streams, runs the branch and writes its output back.

    Args:
      carry: streams `[..., n, w]`; for a connection that carries its read, the pair (streams, read)
        with read None at the first site.
      index: number of the site in the network, from 0.
      *args: arguments of the branch after its input.
      **kwargs: keyword arguments of the branch.

    Returns:
      The next streams, or the next pair (streams, read). If the branch returns a tuple, list or
      dataclass, that structure with its first leaf replaced by the streams or the pair.

    Raises:
      ValueError: if the branch output has another shape than its input, or if `axis` is not -1 and
        the connection has several views.
      TypeError: if the branch returns nothing, or a dict, in which no leaf is first.
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
  """Returns a Linen module that runs a branch at a connection.

      streams = hc_jax.wrap(branch, connection)(streams, index, *args, **kwargs)

  The module calls the branch with the branch input and all further arguments. The branch may have
  parameters, batch statistics, caches and random numbers of its own. It returns its output, in the
  shape of its input, or a tuple with the output first: `(y, cache)` becomes `(streams, cache)`.

  Args:
    branch: a module, a function that makes modules, or a bound method.
    connection: a connection class, a partial of one, or an instance; every wrap has parameters of
      its own.
    axis: the axis of the features in the branch's input and output; 1 for images `[B, C, H, W]`.
    dtype: dtype of the branch input; the streams' own by default.
    name: name of the module. Its parameters are `name/connection/...` and, if the branch was made
      outside of a module, `name/branch/...`.

  Raises:
    TypeError: if `connection` is not a connection. A call of the module raises the errors of
      `Connection`, and TypeError if the branch returns nothing or a dict.
  """
  return Wrapped(branch, connection_factory(connection), axis=axis, dtype=dtype, name=name)


def connected(
  connection: ConnectionLike, **options: Any
) -> Callable[[Callable[..., PyTree]], Callable[..., PyTree]]:
  """Returns a decorator that puts a function at a connection.

      @hc_jax.connected(hc_jax.HyperConnection(num_streams=4))
      def feed_forward(h, deterministic):
        ...
      streams = feed_forward(streams, index, deterministic)     # in a compact method

  The decorated function is called with the streams, the site's index and the function's arguments
  after `h`, and returns the next streams. Every call is a site with parameters of its own; `name=`
  names it. The function may make modules.

  Args:
    connection: a connection class, a partial of one, or an instance.
    **options: `axis` and `dtype` of `wrap`.

  Raises:
    TypeError: when the function is called, if `connection` is not a connection; other errors are
      those of `wrap`.
  """

  def decorate(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    @functools.wraps(function)
    def call(streams, index, /, *args, name: str | None = None, **kwargs):
      return wrap(function, connection, name=name, **options)(streams, index, *args, **kwargs)

    return call

  return decorate


def _check_first(outputs: PyTree) -> None:
  """Raises TypeError if the outputs have no leaf, or if their first leaf is inside a dict.

  JAX flattens a dict by its sorted keys, so that its first leaf depends on names alone.
  """
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
