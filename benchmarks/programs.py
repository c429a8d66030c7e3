"""Chains of sublayers: what `traffic.py` counts and `ops.py` times."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import hc_jax as hc
from benchmarks.contenders import connections
from hc_jax import models
from hc_jax.connections import connection_factory
from hc_jax.connections.carry import join, split, start
from hc_jax.ops.platform import stored

# Name of the row: its connection. Variants are there under their own names too, as they come.
CONNECTIONS = {**hc.CONNECTIONS, **connections(4), "dhc2": connections(2)["dhc2"]}


class Sublayer(nn.Module):
  """A connection around norm and one `d x d` product, or around nothing that could be seen into."""

  connection: Any
  dtype: Any
  branch: bool = True

  @nn.compact
  def __call__(self, carry, index, context=None):
    connection = self.connection()
    streams, carried = split(carry)
    h, coefs = connection(streams, index, dtype=self.dtype, **carried)
    if self.branch:
      if not connection.norms_input:
        h = models.Norm("rmsnorm", dtype=self.dtype)(h)
      y = nn.Dense(h.shape[-1], use_bias=False, dtype=self.dtype)(h)
    else:
      y = stored(h)
    return join(connection.write(streams, y, coefs), coefs)


class Chain(nn.Module):
  """expand, `depth` sublayers, reduce; unrolled, or as the models' stack runs them.

  Each sublayer is a block of its own, so that all sites of `x0_lambdas` are those that mix.
  """

  connection: Any
  depth: int
  dtype: Any = jnp.bfloat16
  remat: str = ""  # of the models' stack; a plain loop without
  scan: bool = True  # whether that stack scans
  branch: bool = True

  @nn.compact
  def __call__(self, x):
    make = connection_factory(self.connection, num_sites=self.depth)
    connection = make(parent=None)
    n, m = connection.num_streams, connection.fractions
    carry = start(connection, hc.Expand(n, m, connection.expand_kind)(x))
    if self.remat:
      block = functools.partial(Sublayer, make, self.dtype, self.branch)
      stack = models.Stack(block, self.depth, scan=self.scan, remat=self.remat)
      carry = stack(carry, models.TokenContext(positions=jnp.arange(x.shape[1])[None]))
    else:
      for index in range(self.depth):
        carry = Sublayer(make, self.dtype, self.branch)(carry, index)
    streams, carried = split(carry)
    kind = connection.reduce_kind
    end = hc.Reduce(m, kind=kind, connection=make if kind == "gated" else None)
    return end(streams, **carried)


def forward_and_both(chain: Chain, x: jax.ShapeDtypeStruct):
  """Forward; forward and backward; and what they take, as shapes."""
  variables = nn.unbox(jax.eval_shape(chain.init, jax.random.key(0), x))
  cotangent = jax.eval_shape(chain.apply, variables, x)

  def both(variables, x, cotangent):
    out, pull = jax.vjp(chain.apply, variables, x)
    return out, pull(cotangent)

  return chain.apply, both, (variables, x, cotangent)
