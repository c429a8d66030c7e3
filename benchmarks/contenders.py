"""Contenders of the benchmarks: our connections, and straightforward JAX code for the same maps."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

import hc_jax as hc
from hc_jax import models


class Naive(hc.HyperConnection):
  """Dynamic hyper-connections, written equation by equation and differentiated by autodiff.

  The normed streams are an array of their own. There are two projections, and read and mix are one
  einsum over `[n, 1 + n]` weights. Every sum is rounded to the dtype of the streams.
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


class EinsumMHC(hc.Connection):
  """mHC as einsums: all streams normed, one product, and twenty Sinkhorn steps written out.

  MaxText writes it so, except for its TPU kernels.
  """

  num_streams: int = 4

  @nn.compact
  def coefs(self, streams, index):
    n, w = streams.shape[-2:]
    flat = models.Norm("rmsnorm", dtype=streams.dtype)(streams.reshape(*streams.shape[:-2], n * w))
    kernel = self.param("kernel", nn.initializers.normal(0.01), (n * w, n * n + 2 * n))
    bias = self.param("bias", nn.initializers.zeros, (n * n + 2 * n,))
    logits = (flat @ kernel.astype(flat.dtype)).astype(jnp.float32) + bias
    mix = jnp.exp(logits[..., 2 * n :].reshape(*logits.shape[:-1], n, n))
    for _ in range(20):
      mix = mix / jnp.sum(mix, axis=-2, keepdims=True)
      mix = mix / jnp.sum(mix, axis=-1, keepdims=True)
    read, write = jax.nn.sigmoid(logits[..., :n]), 2 * jax.nn.sigmoid(logits[..., n : 2 * n])
    return hc.Coefs(read=read[..., None, :], write=write[..., None], mix=mix)

  def __call__(self, streams, index=0, *, dtype=None):
    coefs = self.coefs(streams, index)
    read = jnp.einsum("...vn,...nw->...w", coefs.read.astype(streams.dtype), streams)
    return read, coefs

  def write(self, streams, branch_output, coefs):
    mixed = jnp.einsum("...ij,...jw->...iw", coefs.mix.astype(streams.dtype), streams)
    return mixed + coefs.write.astype(streams.dtype) * branch_output[..., None, :]


class BranchOnly(hc.Residual):
  """No connection: the branch output is the next input, so that only the branch is measured."""

  def write(self, streams, branch_output, coefs):
    return branch_output[..., None, :].astype(streams.dtype)


def connections(n: int) -> dict[str, functools.partial]:
  """Returns the connection of each row by its name, with n streams."""
  of = {"num_streams": n}
  return {
    "branch": functools.partial(BranchOnly),
    "residual": functools.partial(hc.Residual),
    f"shc{n}": functools.partial(hc.HyperConnection, dynamic=False, **of),
    f"dhc{n}": functools.partial(hc.HyperConnection, **of),
    f"dhc{n}-autodiff": functools.partial(hc.HyperConnection, derivatives="autodiff", **of),
    f"naive{n}": functools.partial(Naive, **of),
    f"frac{n}": functools.partial(hc.FracConnection, fractions=n, **of),
    f"mhc{n}": functools.partial(hc.MHC, **of),
    f"single-pass{n}": functools.partial(hc.SinglePassMHC, **of),
    f"einsum-mhc{n}": functools.partial(EinsumMHC, **of),
  }
