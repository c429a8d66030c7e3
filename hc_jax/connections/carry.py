"""What crosses from site to site: the streams, and for some variants the next read with them."""

from typing import Any

import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection, first_read

# Streams `[..., n, w]`, or for variants that carry their read a pair of them and `[..., v, n]`.
Carry = Any


def start(connection: Connection, streams: jax.Array) -> Carry:
  """Returns what goes into the first of a row of blocks.

  Args:
    connection: that of the blocks, with its fields.
    streams: `[..., n, w]`.
  """
  if not connection.carries_read or ops.is_plain():
    return streams
  # A scan wants the types of the carry that comes out: over which devices, of which tokens.
  none = 0 * streams[..., None, :, 0].astype(jnp.float32)
  first = first_read(connection.num_streams, connection.slots)
  return streams, none + ops.lift(first, none.ndim)


def split(carry: Carry) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the streams, and the read that is carried as `{"read": read}`; {} without one."""
  streams, read = carry if isinstance(carry, tuple) else (carry, None)
  return streams, {} if read is None else {"read": read}


def join(streams: jax.Array, coefs: Coefs | Any) -> Carry:
  """Returns what goes into the next site, after a write with these maps."""
  # A connection of a user's own may have maps of its own.
  read = getattr(coefs, "next_read", None)
  return streams if read is None else (streams, read)
