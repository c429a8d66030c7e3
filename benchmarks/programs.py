"""The programs that `benchmarks/traffic.py` counts: chains of sublayers around one small branch."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import hc_jax as hc
from hc_jax import models


class Naive(hc.HyperConnection):
  """Dynamic hyper-connections written as the equations are, left to autodiff.

  The normed streams are an array, there are two projections, read and mix are one einsum over
  `[n, 1 + n]` weights, and sums are rounded where they arise.
  """

  @nn.compact
  def coefs(self, streams, index):
    n, w = streams.shape[-2:]
    normed = models.Norm("layernorm", dtype=streams.dtype)(streams)
    param = functools.partial(self.param, init_fn=nn.initializers.zeros)
    read_mix = param("read_mix_kernel", shape=(w, n + 1)).astype(streams.dtype)
    write = param("write_kernel", shape=(w, 1)).astype(streams.dtype)
    read_mix = 0.01 * jnp.tanh(normed @ read_mix) + param("static_read_mix", shape=(n, n + 1))
    write = 0.01 * jnp.tanh(normed @ write) + param("static_write", shape=(n, 1))
    return hc.Coefs(
      read=read_mix[..., :1].swapaxes(-1, -2), write=write, mix=read_mix[..., 1:].swapaxes(-1, -2)
    )

  def __call__(self, streams, index=0, *, dtype=None):
    coefs = self.coefs(streams, index)
    weights = jnp.concatenate([coefs.read, coefs.mix], axis=-2).astype(streams.dtype)
    mixed = jnp.einsum("...ij,...jw->...iw", weights, streams)
    return mixed[..., 0, :], (mixed[..., 1:, :], coefs.write.astype(streams.dtype))

  def write(self, streams, branch_output, coefs):
    mixed, write = coefs
    return mixed + jnp.einsum("...iv,...w->...iw", write, branch_output)


class BranchOnly(hc.Residual):
  """No connection: the branch's output is the next input. What is left is the branch itself."""

  def write(self, streams, branch_output, coefs):
    return branch_output[..., None, :].astype(streams.dtype)


# Name of the row: its connection.
CONNECTIONS = {
  "branch": BranchOnly,
  "residual": hc.Residual,
  "shc4": functools.partial(hc.HyperConnection, num_streams=4, dynamic=False),
  "dhc4": functools.partial(hc.HyperConnection, num_streams=4),
  "dhc4-autodiff": functools.partial(hc.HyperConnection, num_streams=4, implementation="autodiff"),
  "dhc2": functools.partial(hc.HyperConnection, num_streams=2),
  "frac4": functools.partial(hc.FracConnection, num_streams=4, fractions=4),
  "mhc4": functools.partial(hc.MHC, num_streams=4),
  "naive4": functools.partial(Naive, num_streams=4),
}


class Sublayer(nn.Module):
  """A connection around norm and one `d x d` product."""

  connection: Any
  dtype: Any

  @nn.compact
  def __call__(self, streams, index, context=None):
    connection = self.connection()
    h, coefs = connection(streams, index, dtype=self.dtype)
    h = models.Norm("rmsnorm", dtype=self.dtype)(h)
    y = nn.Dense(h.shape[-1], use_bias=False, dtype=self.dtype)(h)
    return connection.write(streams, y, coefs)


class Chain(nn.Module):
  """expand, `depth` sublayers, reduce; unrolled, or as the models' stack scans them."""

  connection: Any
  depth: int
  dtype: Any = jnp.bfloat16
  remat: str = ""  # of the models' scanned stack; unrolled without

  @nn.compact
  def __call__(self, x):
    connection = self.connection(parent=None)
    streams = hc.expand(x, connection.num_streams, connection.fractions)
    if self.remat:
      block = functools.partial(Sublayer, self.connection, self.dtype)
      stack = models.Stack(block, self.depth, scan=True, remat=self.remat)
      streams = stack(streams, models.TokenContext(positions=jnp.arange(x.shape[1])[None]))
    else:
      for index in range(self.depth):
        streams = Sublayer(self.connection, self.dtype)(streams, index)
    return hc.reduce(streams, connection.fractions)


def forward_and_both(chain: Chain, x: jax.ShapeDtypeStruct):
  """Forward; forward and backward; and what they take, as shapes."""
  variables = nn.unbox(jax.eval_shape(chain.init, jax.random.key(0), x))
  cotangent = jax.eval_shape(chain.apply, variables, x)

  def both(variables, x, cotangent):
    out, pull = jax.vjp(chain.apply, variables, x)
    return out, pull(cotangent)

  return chain.apply, both, (variables, x, cotangent)
