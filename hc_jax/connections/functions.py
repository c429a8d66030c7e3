"""Connect, expand and reduce of one network, so that n and the fractions are given once."""

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
  """Returns `connect`, `expand` and `reduce` for hyper-connections, with the counts filled in.

      connect, expand, reduce = hc_jax.stream_functions(4)     # in a module's compact method:
      streams = expand(x)                                      # [..., d] -> [..., 4, d]
      streams = connect(branch)(streams, 0)                    # 0 is the index of the site
      out = reduce(streams)                                    # [..., d]

  `connect(branch, *, axis=-1, dtype=None, name=None)` is `hc_jax.wrap`, a Linen module; it passes
  further arguments of its call to the branch. `expand` and `reduce` are `hc_jax.expand` and
  `hc_jax.reduce`, whose `axis` is then given by name. The
  PyTorch package hyper-connections has `get_init_and_expand_reduce_stream_functions` for this.

  Args:
    num_streams: n, the number of copies of the input, each of m streams.
    fractions: m, a divisor of the width. With m > 1 the connection is `FracConnection` with n * m
      streams of width d / m (n = 4 and m = 4: sixteen), else `HyperConnection`.
    disable: if true, the three build the plain residual network. The parameters of branches keep
      their names.
    **fields: more fields of the connection, such as `dynamic=False`; ignored if `disable`.

  Raises:
    TypeError: if the connection does not have one of the fields.
    ValueError: if the connection refuses the value of a field.
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
