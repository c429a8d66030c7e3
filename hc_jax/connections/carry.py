"""The value that goes from site to site: the streams, and for some variants the next read."""

from typing import Any

import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection, first_read

# Streams `[..., n, w]`; for variants that carry their read, the pair (streams, read `[..., v, n]`).
Carry = Any


def start(connection: Connection, streams: jax.Array) -> Carry:
  """Returns the carry for the first of a row of blocks.

  Args:
    connection: the blocks' connection, with its fields.
    streams: `[..., n, w]`.
  """
  if not connection.carries_read or ops.is_plain():
    return streams
  # A scan needs a carry of the same type at both ends: same leading axes, same devices. Hence the
  # read is made from the streams, and not of constants alone.
  none = 0 * streams[..., None, :, 0].astype(jnp.float32)
  first = first_read(connection.num_streams, connection.slots)
  return streams, none + ops.lift(first, none.ndim)


def split(carry: Carry) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the streams, and the carried read as keyword arguments: `{"read": read}` or {}."""
  streams, read = carry if isinstance(carry, tuple) else (carry, None)
  return streams, {} if read is None else {"read": read}


def join(streams: jax.Array, coefs: Coefs | Any) -> Carry:
  """Returns the carry for the next site, after a write with these maps."""
  # A user's own connection may return a class of maps without this field.
  read = getattr(coefs, "next_read", None)
  return streams if read is None else (streams, read)
