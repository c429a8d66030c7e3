"""Mutants with a wrong Sinkhorn, for trap T4; see `traps`."""

import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.connections import MHC


class _OverTokens(MHC):
  """An mHC that normalises over tokens and streams, instead of over both stream axes."""

  def mix_of(self, logits):
    z = logits.reshape(*logits.shape[:-1], self.num_streams, self.num_streams)
    return ops.sinkhorn(z.swapaxes(-3, -1)).swapaxes(-3, -1)


class _AllOnes(MHC):
  """An mHC that normalises over an axis of size one, which gives all ones."""

  def mix_of(self, logits):
    z = logits.reshape(*logits.shape[:-1], self.num_streams, self.num_streams, 1)
    return ops.sinkhorn(z)[..., 0]


class _EndsOnColumns(MHC):
  """An mHC with the transposed Sinkhorn: exact columns, approximate rows."""

  def mix_of(self, logits):
    z = logits.reshape(*logits.shape[:-1], self.num_streams, self.num_streams)
    return ops.sinkhorn(z.swapaxes(-1, -2)).swapaxes(-1, -2)


class _Detached(MHC):
  """An mHC whose mix has no gradient."""

  def mix_of(self, logits):
    return jax.lax.stop_gradient(MHC.mix_of(self, logits))


class _PerSequence(MHC):
  """An mHC that averages logits over the sequence, so that tokens see their future."""

  def mix_of(self, logits):
    mean = jnp.mean(logits, axis=-2, keepdims=True)
    return MHC.mix_of(self, jnp.broadcast_to(mean, logits.shape))


SINKHORNS = (
  ("Sinkhorn over tokens", _OverTokens),
  ("Sinkhorn over an axis of one", _AllOnes),
  ("Sinkhorn that ends on columns", _EndsOnColumns),
  ("Sinkhorn detached", _Detached),
  ("Sinkhorn of the sequence's mean", _PerSequence),
)
