"""Connect, expand and reduce of one network, so that n and the fractions are said once."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from hc_jax import ops
from hc_jax.connections.frac import FracConnection
from hc_jax.connections.hyper import HyperConnection
from hc_jax.connections.residual import Residual
from hc_jax.connections.wrap import Wrapped, wrap


def stream_functions(
  num_streams: int, *, fractions: int = 1, disable: bool = False, **fields: Any
) -> tuple[Callable[..., Wrapped], Callable[..., jax.Array], Callable[..., jax.Array]]:
  """Returns `connect`, `expand` and `reduce` for hyper-connections with that many streams.

      connect, expand, reduce = hc_jax.stream_functions(4)
      streams = expand(x)                                # [..., d] -> [..., 4, d]
      streams = connect(branch)(streams, 0)              # the site's index, then the branch's own
      out = reduce(streams)                              # [..., d]

  `connect(branch, axis=-1, dtype=None, name=None)` is `hc_jax.wrap` with the connection filled in.
  With m fractions the width is cut into m parts and every part has n streams: n * m streams of
  width d / m (4 and 4: sixteen). Users of the PyTorch package hyper-connections know the three from
  its `get_init_and_expand_reduce_stream_functions`.

  Args:
    num_streams: n, of each fraction.
    fractions: m, divides the width.
    disable: the plain residual network, with the same names for the branches' parameters.
    **fields: more fields of the connection, `dynamic=False` say.

  Raises:
    ValueError: if the fields do not go together.
  """
  if disable:
    connection, fractions = Residual(), 1
  elif fractions == 1:
    connection = HyperConnection(num_streams=num_streams, **fields)
  else:
    connection = FracConnection(num_streams=num_streams * fractions, fractions=fractions, **fields)
  connection.check()
  return (
    functools.partial(_connect, connection),
    functools.partial(ops.expand, num_streams=connection.num_streams, fractions=fractions),
    functools.partial(ops.reduce, fractions=fractions),
  )


def _connect(connection: Any, branch: Callable, **options: Any) -> Wrapped:
  return wrap(branch, connection, **options)
