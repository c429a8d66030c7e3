"""Connections with one mistake each, and the conformance check that must find it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hc_jax.coefs import Coefs
from hc_jax.connections import Connection, HyperConnection
from hc_jax.testing.conformance.candidate import Candidate
from tests.mutants.changes import (
  changed_coefs,
  changed_param,
  changed_part,
  changed_streams,
  over_batch,
  over_rows,
  over_tokens,
  rounded,
  stronger_when_scanned,
  transposed,
)


@dataclasses.dataclass(frozen=True)
class WrongConnection:
  """A connection with one mistake, and the name of the check that finds it."""

  check: str
  candidate: Candidate

  @property
  def name(self) -> str:
    """Returns the mistake in words."""
    return self.candidate.name


class _Remembers(HyperConnection):
  """A connection with a state in addition to its parameters."""

  @nn.compact
  def coefs(self, streams, index):
    self.variable("cache", "seen", jnp.zeros, ())
    return HyperConnection.coefs(self, streams, index)


class _Bfloat16(Connection):
  """A connection that returns streams in another dtype."""

  @nn.compact
  def coefs(self, streams, index):
    return Coefs(read=jnp.ones((1, 4)), write=jnp.ones((4, 1)), mix=None)

  def write(self, streams, branch_output, coefs):
    return Connection.write(self, streams, branch_output, coefs).astype(jnp.bfloat16)


class _OneMore(HyperConnection):
  """A connection with a parameter that it does not declare."""

  @nn.compact
  def generator(self, width, index):
    self.param("static_more", nn.initializers.ones, (1,))
    return HyperConnection.generator(self, width, index)


class _Boasts(HyperConnection):
  """A connection that wrongly claims a doubly stochastic mix."""

  def facts(self, d_model):
    return dataclasses.replace(super().facts(d_model), mix_columns_sum_to_one=1e-5)


class _BoastsOrthogonal(HyperConnection):
  """A connection that wrongly claims an orthogonal mix."""

  def facts(self, d_model):
    return dataclasses.replace(super().facts(d_model), mix_is_orthogonal=1e-5)


class _Silent(HyperConnection):
  """A connection that does not start as the residual network, and does not say so."""

  dynamic_scale_init: float = 0.01

  def facts(self, d_model):
    return dataclasses.replace(super().facts(d_model), residual_at_init=None, note="")


class _ForgetsIndex(HyperConnection):
  """A connection that treats a traced index as zero."""

  @nn.compact
  def coefs(self, streams, index):
    index = 0 if isinstance(index, jax.core.Tracer) else index
    return HyperConnection.coefs(self, streams, index)


class _OwnWrite(HyperConnection):
  """A connection with its own write, which does not constrain the streams' sharding."""

  def write(self, streams, branch_output, coefs):
    mixed = jnp.einsum("...ij,...jw->...iw", coefs.mix, streams, precision="highest")
    return mixed + coefs.write * branch_output[..., None, :]


class _HalfParameter(HyperConnection):
  """A connection with a bf16 parameter, which the first optimizer step turns into float32."""

  @nn.compact
  def coefs(self, streams, index):
    half = self.param("static_half", nn.initializers.ones, (1,), jnp.bfloat16)
    found = HyperConnection.coefs(self, streams, index)
    return found.replace(read=found.read * half.astype(jnp.float32))


class _NeedsNumber(HyperConnection):
  """A connection that needs a concrete index, and so compiles for each."""

  @nn.compact
  def coefs(self, streams, index):
    return HyperConnection.coefs(self, streams, int(index))


class _Captures(HyperConnection):
  """A connection whose finish captures an array."""

  def finish(self, logits, small):
    found = HyperConnection.finish(self, logits, small)
    return found.replace(write=found.write * jnp.asarray(np.ones((1, 1, 4, 1), np.float32)))


class _AnyIndex(HyperConnection):
  """A connection that rounds any index to a whole number."""

  def __call__(self, streams, index, *, dtype=None):
    return HyperConnection.__call__(self, streams, int(np.ravel(index)[0]), dtype=dtype)


class _DividesByTokens(HyperConnection):
  """A connection that fails without tokens."""

  def coefs(self, streams, index):
    found = HyperConnection.coefs(self, streams, index)
    return found.replace(write=found.write * (streams.size // streams.size))


class _AnyFloat(HyperConnection):
  """A connection with a parameter that has no explicit dtype."""

  @nn.compact
  def coefs(self, streams, index):
    gain = self.param("static_gain", nn.initializers.ones, ())
    found = HyperConnection.coefs(self, streams, index)
    return found.replace(write=found.write * gain.astype(jnp.float32))


class _OwnDerivative(HyperConnection):
  """A connection with a hand-written derivative that ignores meshes."""

  @nn.compact
  def coefs(self, streams, index):
    gain = self.param("static_gain", nn.initializers.ones, (), jnp.float32)
    found = HyperConnection.coefs(self, streams, index)
    return found.replace(write=_times(gain, found.write))


@jax.custom_vjp
def _times(gain, write):
  return gain * write


_times.defvjp(
  lambda gain, write: (gain * write, (gain, write)),
  lambda saved, grad: (jnp.einsum("...ij,...ij->", grad, saved[1]), saved[0] * grad),
)


@jax.custom_vjp
def _square(x):
  return x * x


# The first derivative is right, but it cannot be differentiated again.
_square.defvjp(lambda x: (x * x, x), lambda x, grad: (2 * jax.lax.stop_gradient(x) * grad,))


def _once_differentiable(connection, coefs):
  square = _square if connection.derivatives == "custom" else jnp.square
  return coefs.replace(write=square(coefs.write))


def _waves(kernel):
  return kernel + jnp.cos(jnp.arange(kernel.size)).reshape(kernel.shape)


def _off(connection, coefs):
  """Scales the write by 1.0001."""
  return coefs.replace(write=1.0001 * coefs.write)


def _detached(connection, coefs):
  return coefs.replace(mix=jax.lax.stop_gradient(coefs.mix))


def _wrong_backward(connection, coefs):
  """Loses a tenth of the mix's gradient, like a wrong hand-written derivative."""
  mix = coefs.mix + 0.1 * (jax.lax.stop_gradient(coefs.mix) - coefs.mix)
  return coefs.replace(mix=mix) if connection.derivatives == "custom" else coefs


def _other_when_one(connection, streams):
  return streams * (1 + 1e-4 * (streams.shape[-3] == 1))


def _drifting(connection, streams):
  return streams * 1.03 if streams.dtype == jnp.bfloat16 else streams


def _first_site_only(connection, coefs):
  """Lets the write learn only in the first sublayer of a block."""
  layer = connection.scope.path[-1] == "attn_connection"
  return coefs if layer else coefs.replace(write=jax.lax.stop_gradient(coefs.write))


_WRONG = (
  ("shapes", "state of its own", _Remembers),
  ("shapes", "streams change their dtype", _Bfloat16),
  ("counts", "one parameter more", _OneMore),
  ("maps", "mix transposed", changed_coefs(transposed)),
  ("maps", "write off by 1e-4", changed_coefs(_off)),
  ("claims", "boasts of sums", _Boasts),
  ("claims", "boasts of orthogonality", _BoastsOrthogonal),
  ("bf16", "coefficients rounded to bf16", changed_coefs(rounded)),
  ("grads", "mix detached", changed_coefs(_detached)),
  ("vjp", "a wrong hand-written derivative", changed_coefs(_wrong_backward)),
  ("value", "finish holds an array", _Captures),
  ("whole", "any index is taken", _AnyIndex),
  ("empty", "divides by the tokens", _DividesByTokens),
  ("x64", "a parameter of any dtype", _AnyFloat),
  ("jvp", "reverse mode whatever it is told", _OwnDerivative),
  ("second", "differentiable once", changed_coefs(_once_differentiable)),
  ("shard", "a derivative that knows of no mesh", _OwnDerivative),
  ("pmap", "mean over the rows of a device", changed_streams(over_rows)),
  ("explicit", "a derivative that knows of no sharding", _OwnDerivative),
  ("init", "random dynamic kernel", changed_param("dynamic_kernel", _waves)),
  ("init", "says nothing of how it starts", _Silent),
  ("index", "index forgotten under scan", _ForgetsIndex),
  ("causal", "mean over tokens", changed_streams(over_tokens)),
  ("causal", "streams folded into the batch", changed_streams(over_batch)),
  ("exact", "mix transposed in a network", changed_coefs(transposed)),
  ("exact", "mix detached in a network", changed_coefs(_detached)),
  ("ways", "another mix under scan", changed_coefs(stronger_when_scanned)),
  ("half", "streams that drift in bf16", changed_streams(_drifting)),
  ("decode", "another result for one token", changed_streams(_other_when_one)),
  ("learns", "write learns at attention alone", changed_coefs(_first_site_only)),
  ("learns", "dynamic part detached", changed_part(lambda *p: jax.lax.stop_gradient(p))),
  ("once", "index wanted as a number", _NeedsNumber),
  ("once", "a parameter in bf16", _HalfParameter),
  ("mesh", "streams written without their constraint", _OwnWrite),
)
WRONG_CONNECTIONS = tuple(
  WrongConnection(check, Candidate(name, cls, like_reference=True)) for check, name, cls in _WRONG
)
