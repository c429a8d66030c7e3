"""Chains of sublayers, the programs of `traffic.py` and `ops.py`."""

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

# Connections by the name of their row. Variants with default fields have their own names.
CONNECTIONS = {**hc.CONNECTIONS, **connections(4), "dhc2": connections(2)["dhc2"]}


class Sublayer(nn.Module):
  """A connection around a norm and one `d x d` product, or around a branch that XLA cannot see."""

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
  """A model of expand, `depth` sublayers and reduce, unrolled or in the models' stack.

  Each sublayer is a block, so that every site of `x0_lambdas` mixes.
  """

  connection: Any
  depth: int
  dtype: Any = jnp.bfloat16
  remat: str = ""  # remat of the models' stack; "" runs a plain loop instead
  scan: bool = True  # whether the stack scans
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
  """Returns the forward function, the one with backward, and their arguments as shapes."""
  variables = nn.unbox(jax.eval_shape(chain.init, jax.random.key(0), x))
  cotangent = jax.eval_shape(chain.apply, variables, x)

  def both(variables, x, cotangent):
    out, pull = jax.vjp(chain.apply, variables, x)
    return out, pull(cotangent)

  return chain.apply, both, (variables, x, cotangent)
