"""Mistakes on purpose with Sinkhorn, for trap T4; see `traps`."""

import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.connections import MHC


class _OverTokens(MHC):
  """Normalises over tokens and streams instead of streams and streams."""

  def mix_of(self, logits):
    z = logits.reshape(*logits.shape[:-1], self.num_streams, self.num_streams)
    return ops.sinkhorn(z.swapaxes(-3, -1)).swapaxes(-3, -1)


class _AllOnes(MHC):
  """Reshapes the square away and normalises over an axis of one: all ones, whatever the logits."""

  def mix_of(self, logits):
    z = logits.reshape(*logits.shape[:-1], self.num_streams, self.num_streams, 1)
    return ops.sinkhorn(z)[..., 0]


class _EndsOnColumns(MHC):
  """Makes columns exact, rows nearly: the transposed Sinkhorn."""

  def mix_of(self, logits):
    z = logits.reshape(*logits.shape[:-1], self.num_streams, self.num_streams)
    return ops.sinkhorn(z.swapaxes(-1, -2)).swapaxes(-1, -2)


class _Detached(MHC):
  """Computes the mix without a gradient."""

  def mix_of(self, logits):
    return jax.lax.stop_gradient(MHC.mix_of(self, logits))


class _PerSequence(MHC):
  """Averages the logits over the sequence: one mix for all tokens, which sees their future."""

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
