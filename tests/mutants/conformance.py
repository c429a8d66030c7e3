"""Connections with one mistake each, and the conformance check that must find it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax.coefs import Coefs
from hc_jax.connections import Connection, HyperConnection
from hc_jax.testing.candidate import Candidate
from tests.mutants.changes import (
  changed_coefs,
  changed_param,
  changed_part,
  changed_streams,
  over_batch,
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
    """Of the mistake, in words."""
    return self.candidate.name


class _Remembers(HyperConnection):
  """Keeps a state besides its parameters."""

  @nn.compact
  def coefs(self, streams, index):
    self.variable("cache", "seen", jnp.zeros, ())
    return HyperConnection.coefs(self, streams, index)


class _Bfloat16(Connection):
  """Hands out streams in another dtype than it got."""

  @nn.compact
  def coefs(self, streams, index):
    return Coefs(read=jnp.ones((1, 4)), write=jnp.ones((4, 1)), mix=None)

  def write(self, streams, branch_output, coefs):
    return Connection.write(self, streams, branch_output, coefs).astype(jnp.bfloat16)


class _OneMore(HyperConnection):
  """Has a parameter that its formula does not know."""

  @nn.compact
  def coefs(self, streams, index):
    self.param("static_more", nn.initializers.ones, (1,))
    return HyperConnection.coefs(self, streams, index)


class _Boasts(HyperConnection):
  """Claims a doubly stochastic mix."""

  def facts(self, d_model):
    return dataclasses.replace(super().facts(d_model), mix_columns_sum_to_one=1e-5)


class _BoastsOrthogonal(HyperConnection):
  """Claims an orthogonal mix."""

  def facts(self, d_model):
    return dataclasses.replace(super().facts(d_model), mix_is_orthogonal=1e-5)


class _Silent(HyperConnection):
  """Does not start as the residual network and does not say so."""

  dynamic_scale_init: float = 0.01

  def facts(self, d_model):
    return dataclasses.replace(super().facts(d_model), residual_at_init=None, note="")


class _ForgetsIndex(HyperConnection):
  """Takes a traced index for zero."""

  @nn.compact
  def coefs(self, streams, index):
    index = 0 if isinstance(index, jax.core.Tracer) else index
    return HyperConnection.coefs(self, streams, index)


class _OwnWrite(HyperConnection):
  """Writes by itself, without the constraint on the streams' sharding."""

  def write(self, streams, branch_output, coefs):
    mixed = jnp.einsum("...ij,...jw->...iw", coefs.mix, streams, precision="highest")
    return mixed + coefs.write * branch_output[..., None, :]


class _HalfParameter(HyperConnection):
  """Has a parameter in bf16, which the first step of an optimizer makes float32."""

  @nn.compact
  def coefs(self, streams, index):
    half = self.param("static_half", nn.initializers.ones, (1,), jnp.bfloat16)
    found = HyperConnection.coefs(self, streams, index)
    return found.replace(read=found.read * half.astype(jnp.float32))


class _NeedsNumber(HyperConnection):
  """Wants the index as a number, one compilation for each."""

  @nn.compact
  def coefs(self, streams, index):
    return HyperConnection.coefs(self, streams, int(index))


def _waves(kernel):
  return kernel + jnp.cos(jnp.arange(kernel.size)).reshape(kernel.shape)


def _off(connection, coefs):
  """A scale that is wrong by a ten-thousandth."""
  return coefs.replace(write=1.0001 * coefs.write)


def _detached(connection, coefs):
  return coefs.replace(mix=jax.lax.stop_gradient(coefs.mix))


def _wrong_backward(connection, coefs):
  """As a hand-written derivative would be that forgets a tenth of the mix's."""
  mix = coefs.mix + 0.1 * (jax.lax.stop_gradient(coefs.mix) - coefs.mix)
  return coefs.replace(mix=mix) if connection.derivatives == "custom" else coefs


def _other_when_one(connection, streams):
  return streams * (1 + 1e-4 * (streams.shape[-3] == 1))


def _drifting(connection, streams):
  return streams * 1.03 if streams.dtype == jnp.bfloat16 else streams


def _first_site_only(connection, coefs):
  """A write that learns in the first sublayer alone."""
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
