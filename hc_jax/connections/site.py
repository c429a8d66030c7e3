"""A site as two functions, one for its parameters and one for its maps: for models without Flax."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection
from hc_jax.connections.place import check_place


def init_site(
  connection: Connection, key: jax.Array, d_model: int, index: int | jax.Array
) -> dict[str, jax.Array]:
  """Returns the initial parameters of one site: a dict of float32 arrays, which may be empty.

      connection = hc_jax.HyperConnection(num_streams=4)
      params = hc_jax.init_site(connection, key, d_model, index)
      coefs = hc_jax.site_maps(connection, params, streams, index)
      h = hc_jax.read(streams, coefs)
      streams = hc_jax.write(streams, branch(h), coefs)

  The values are those of `connection.init(key, streams, index)["params"]`.

  Args:
    connection: an unbound connection with its fields.
    key: a random key.
    d_model: width of the branch input. `fractions` divides it, and a stream is
      `d_model / fractions` wide.
    index: number of the site in the network, from 0; may be traced.

  Raises:
    ValueError: if `connection.check()` refuses a field, if `fractions` does not divide `d_model`,
      if the connection needs `num_sites` and has none, or if the index is not from 0 to
      `num_sites - 1`. A traced index is not checked, nor is any index where `num_sites` is unset.
  """
  connection.check()
  check_place(connection, index)
  n, m = connection.num_streams, connection.fractions
  if d_model % m:
    raise ValueError(
      f"d_model={d_model} cannot be cut into fractions={m}; choose a width that {m} divides"
    )
  if connection.is_declared:
    made = connection.init(key, d_model // m, index, method="generator")
  else:
    made = connection.init(key, jnp.zeros((n, d_model // m), jnp.float32), index)
  return dict(nn.unbox(made.get("params", {})))


def site_maps(
  connection: Connection,
  params: Mapping[str, jax.Array],
  streams: jax.Array,
  index: int | jax.Array,
  read: jax.Array | None = None,
) -> Coefs:
  """Computes the maps of one site from its streams, for `hc_jax.read` and `hc_jax.write`.

  Args:
    connection: the unbound connection that `init_site` was given.
    params: parameters of the site, as `init_site` returns them.
    streams: `[..., n, w]`, of a floating-point dtype.
    index: number of the site in the network, from 0; may be traced.
    read: `next_read` of the site before, for variants that carry it; None at the first site.

  Returns:
    Float32 maps: `read` `[..., slots, n]`, `write` `[..., n, m]`, `mix` `[..., n, n]` or None.
    Static maps have no leading axes.

  Raises:
    ValueError: if the connection needs `num_sites` and has none, if the index is not below
      `num_sites`, or if a read is given to a variant that carries none.
  """
  if ops.is_plain():
    return connection.plain_coefs()
  if not connection.is_declared:
    return connection.apply({"params": params}, streams, index, read=read)[1]
  check_place(connection, index)
  made = ops.coefs(
    streams,
    connection.generate(params, index),
    implementation=connection.implementation,
    derivatives=connection.derivatives,
  )
  return connection.carry(made, streams, read)
