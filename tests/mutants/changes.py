"""Functions that change one thing in hyper-connections, from which mutants are made.

`traps` and `conformance` share these changes.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax.coefs import Coefs
from hc_jax.connections import HyperConnection


def changed_coefs(change: Callable[[Any, Coefs], Coefs], **methods: Any) -> type:
  """Returns a connection class whose coefficients are `change(connection, coefs)`."""

  def coefs(self, streams, index):
    return change(self, HyperConnection.coefs(self, streams, index))

  return type("Changed", (HyperConnection,), {"coefs": coefs, **methods})


def changed_field(**fields: Any) -> type:
  """Returns a connection class that overrides some options with fixed values."""

  def coefs(self, streams, index):
    for name, value in fields.items():
      object.__setattr__(self, name, value)
    return HyperConnection.coefs(self, streams, index)

  return type("Deaf", (HyperConnection,), {"coefs": coefs})


def changed_index(change: Callable[[Any], Any]) -> type:
  """Returns a connection class that uses `change(index)` as its index."""

  def coefs(self, streams, index):
    return HyperConnection.coefs(self, streams, change(index))

  return type("Miscounting", (HyperConnection,), {"coefs": coefs})


def changed_param(name: str, change: Callable[[jax.Array], Any]) -> type:
  """Returns a connection class whose parameter `name` starts at `change(correct value)`."""

  def param(self, key, init, *args, **kwargs):
    if key != name:
      return HyperConnection.param(self, key, init, *args, **kwargs)

    def changed(*args):
      made = init(*args)
      value = jnp.asarray(change(nn.unbox(made)), jnp.float32)
      return made.replace_boxed(value) if isinstance(made, nn.Partitioned) else value

    return HyperConnection.param(self, key, changed, *args, **kwargs)

  return type("Misinitialised", (HyperConnection,), {"param": param})


def changed_part(change: Callable) -> type:
  """Returns a connection class whose dynamic part is `change(read, mix, write)`."""

  def _dynamic(self, logits, small):
    return change(*HyperConnection._dynamic(self, logits, small))

  return type("Dynamic", (HyperConnection,), {"_dynamic": _dynamic})


def changed_streams(change: Callable[[Any, jax.Array], jax.Array]) -> type:
  """Returns a connection class that applies `change(connection, streams)` after its write."""

  def write(self, streams, y, coefs):
    return change(self, HyperConnection.write(self, streams, y, coefs))

  return type("Meddling", (HyperConnection,), {"write": write})


def transposed(connection: Any, coefs: Coefs) -> Coefs:
  """Transposes the mix, so that stream i goes into j instead of j into i."""
  return coefs.replace(mix=coefs.mix.swapaxes(-1, -2))


def rounded(connection: Any, coefs: Coefs) -> Coefs:
  """Rounds coefficients to the precision of bf16."""
  return jax.tree.map(lambda a: a.astype(jnp.bfloat16).astype(jnp.float32), coefs)


def stronger_when_scanned(connection: Any, coefs: Coefs) -> Coefs:
  """Scales the mix by 1.0001, but only under scan."""
  scanned = "layers" in connection.scope.path
  return coefs.replace(mix=coefs.mix * (1 + 1e-4 * scanned))


def over_rows(connection: Any, streams: jax.Array) -> jax.Array:
  """Adds the mean over the batch, which differs between devices because each has its own rows."""
  return streams + jnp.mean(streams, axis=0, keepdims=True)


def over_tokens(connection: Any, streams: jax.Array) -> jax.Array:
  """Lets every token see a little of all others, including later ones."""
  return streams + 0.01 * jnp.mean(streams, axis=-3, keepdims=True)


def over_batch(connection: Any, streams: jax.Array) -> jax.Array:
  """Lets every row of the batch see a little of another row."""
  return streams + 0.01 * jnp.roll(streams, 1, axis=0)
