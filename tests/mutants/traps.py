"""Mutants with one mistake each, seen in some implementation, and the trap that must find it.

They prove that every trap can fail. `MUTANTS` lists all mutants.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.models import TransformerLM, lm
from hc_jax.models.blocks import Block
from hc_jax.testing.traps.subject import Subject
from tests.mutants.changes import (
  changed_coefs,
  changed_field,
  changed_index,
  changed_param,
  changed_part,
  changed_streams,
  over_batch,
  over_tokens,
  rounded,
  stronger_when_scanned,
  transposed,
)
from tests.mutants.sinkhorn import SINKHORNS


@dataclasses.dataclass(frozen=True)
class Mutant:
  """A subject with one mistake, and the trap that finds it."""

  trap: str
  subject: Subject

  @property
  def name(self) -> str:
    """Returns the mistake in words."""
    return self.subject.name


@contextlib.contextmanager
def block_is(cls: type[Block]) -> Iterator[None]:
  """Replaces a kind of block in all models that are set up in the body."""
  with mock.patch.dict(lm.KINDS, {cls.kind: cls}):
    yield


def of_block(cls: type[Block]) -> type[TransformerLM]:
  """Returns the model class with another block."""

  def setup(self):
    with block_is(cls):
      TransformerLM.setup(self)

  return type("Rebuilt", (TransformerLM,), {"setup": setup})


def deaf_model(**fields: Any) -> Callable[..., TransformerLM]:
  """Returns a model factory that overrides some options with fixed values."""
  return lambda **given: TransformerLM(**{**given, **fields})


class _CollapsingBlock(Block):
  """A block that ends in the mean of its streams."""

  @nn.compact
  def __call__(self, streams, layer, context):
    streams = Block.__call__(self, streams, layer, context)
    return _mean(streams)


class _DroppingBlock(Block):
  """A block with dropout on streams instead of branch outputs."""

  @nn.compact
  def __call__(self, streams, layer, context):
    streams = Block.__call__(self, streams, layer, context.replace(deterministic=True))
    return nn.Dropout(self.dropout)(streams, deterministic=context.deterministic)


class _NormBeforeReduce(TransformerLM):
  """A model that norms every stream before it reduces, by the sum or by the mean."""

  mean: bool = False

  def hidden(self, tokens, **kwargs):
    def normed(streams, fractions, reduce=ops.reduce):
      return reduce(self.final_norm(streams), fractions) / (streams.shape[-2] if self.mean else 1)

    with mock.patch.object(ops, "reduce", normed):
      return TransformerLM.hidden(self, tokens, **kwargs)

  def logits(self, hidden):
    return self.token_embed.attend(hidden)


class _MeanForSum(TransformerLM):
  """A model that reduces by the mean."""

  def hidden(self, tokens, **kwargs):
    return (
      TransformerLM.hidden(self, tokens, **kwargs) / self._connection()(parent=None).num_streams
    )


class _ForgetfulDecoder(TransformerLM):
  """A model that decodes as if each token were the first."""

  def hidden(self, tokens, *, decode=False, positions=None, **kwargs):
    if decode:
      positions = jnp.zeros_like(tokens)
    return TransformerLM.hidden(self, tokens, decode=decode, positions=positions, **kwargs)


def _mean(streams):
  return jnp.broadcast_to(jnp.mean(streams, axis=-2, keepdims=True), streams.shape).astype(
    streams.dtype
  )


def _no_mix(connection, coefs):
  return coefs.replace(mix=None)


def _shared(read, mix, write):
  """Makes read and all rows of mix from the same column of the kernel."""
  return read, jnp.broadcast_to(read, mix.shape), write


def _softmax(connection, coefs):
  return coefs.replace(read=jax.nn.softmax(coefs.read))


def _sigmoid(connection, coefs):
  return coefs.replace(write=jax.nn.sigmoid(coefs.write))


def _gated(connection, coefs):
  one = connection.num_streams == 1
  return coefs.replace(mix=0.5 * coefs.mix) if one else coefs


def _dead_write(connection, coefs):
  return coefs.replace(write=jax.lax.stop_gradient(coefs.write))


def _wrong_backward(connection, coefs):
  """Loses a third of the mix's gradient, like a wrong hand-written derivative."""
  mix = coefs.mix + 0.3 * (jax.lax.stop_gradient(coefs.mix) - coefs.mix)
  return coefs.replace(mix=mix) if connection.derivatives == "custom" else coefs


def _collapsed(connection, streams):
  return _mean(streams) if connection.name == "ffn_connection" else streams


def _scaled_eagerly(connection, streams):
  return streams if isinstance(streams, jax.core.Tracer) else 1.001 * streams


def _drifting(connection, streams):
  return streams * 1.02 if streams.dtype == jnp.bfloat16 else streams


def _by_rank(params):
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _static_decays(params):
  return jax.tree.map(lambda leaf: True, params)


def _op(change: Callable[[Coefs], Coefs]) -> Callable:
  return lambda streams, y, coefs: ops.write(streams, y, change(coefs))


_CONNECTIONS = (
  ("T1", "mix dropped", changed_coefs(_no_mix)),
  ("T2", "mix transposed", changed_coefs(transposed)),
  ("T19", "shared dynamic projection", changed_part(_shared)),
  ("T2", "dynamic mix transposed", changed_part(lambda r, m, w: (r, m.swapaxes(-1, -2), w))),
  ("T3", "streams averaged after each feed-forward", changed_streams(_collapsed)),
  ("T7", "constant index", changed_index(lambda index: 0)),
  ("T7", "index of the block", changed_index(lambda index: index // 2)),
  ("T8", "softmax over read", changed_coefs(_softmax)),
  ("T8", "sigmoid over write", changed_coefs(_sigmoid)),
  ("T9", "random dynamic kernel", changed_param("dynamic_kernel", lambda a: a + 0.02)),
  ("T9", "dynamic scale of one", changed_param("dynamic_scale", jnp.ones_like)),
  ("T10", "always RMSNorm", changed_field(norm="rmsnorm")),
  ("T10", "no norm parameters", changed_field(norm_params=False)),
  ("T10", "fixed eps", changed_field(norm_eps=1e-5)),
  ("T11", "tanh missing", changed_field(tanh=False)),
  ("T11", "tanh always", changed_field(tanh=True)),
  ("T13", "coefficients rounded to bf16", changed_coefs(rounded)),
  ("T14", "not finite at init", changed_param("static_mix", lambda a: a / 0)),
  (
    "T14",
    "numbers from nowhere at init",
    changed_param("static_write", lambda a: a * np.random.default_rng().random()),
  ),
  ("T16", "write without gradient", changed_coefs(_dead_write)),
  ("T16", "dynamic part detached", changed_part(lambda *parts: jax.lax.stop_gradient(parts))),
  ("T17", "norm ignored", changed_field(norm="layernorm")),
  ("T17", "train_write ignored", changed_field(train_write=True)),
  ("T18", "mean over tokens", changed_streams(over_tokens)),
  ("T18", "streams folded into the batch", changed_streams(over_batch)),
  ("T19", "another mix under scan", changed_coefs(stronger_when_scanned)),
  ("T19", "a wrong hand-written derivative", changed_coefs(_wrong_backward)),
  ("T19", "streams that drift in bf16", changed_streams(_drifting)),
  ("T19", "another result without jit", changed_streams(_scaled_eagerly)),
  ("T20", "half a residual with one stream", changed_coefs(_gated)),
)
_MODELS = (
  ("T3", "blocks end in a mean", of_block(_CollapsingBlock)),
  ("T5", "norm, then sum", _NormBeforeReduce),
  ("T5", "norm, then mean", lambda **f: _NormBeforeReduce(**f, mean=True)),
  ("T6", "mean of the streams", _MeanForSum),
  ("T15", "dropout on streams", of_block(_DroppingBlock)),
  ("T15", "no dropout", deaf_model(dropout=0.0)),
  ("T17", "qk_norm ignored", deaf_model(qk_norm=False)),
  ("T18", "not causal", deaf_model(causal=False)),
  ("T19", "decoding forgets positions", _ForgetfulDecoder),
)
MUTANTS = (
  *(Mutant(trap, Subject(name, connection=cls)) for trap, name, cls in _CONNECTIONS),
  *(Mutant(trap, Subject(name, model=model)) for trap, name, model in _MODELS),
  *(Mutant("T4", Subject(name, mhc=cls)) for name, cls in SINKHORNS),
  Mutant("T1", Subject("write drops mix", write=_op(lambda c: c.replace(mix=None)))),
  Mutant("T2", Subject("write transposes mix", write=_op(lambda c: c.replace(mix=c.mix.T)))),
  Mutant("T6", Subject("reduce is the mean", reduce=lambda s: jnp.mean(s, axis=-2))),
  Mutant("T6", Subject("expand divides", expand=lambda x, n: ops.expand(x / n, n))),
  Mutant("T12", Subject("decay by rank", decay_mask=_by_rank)),
  Mutant("T12", Subject("everything decays", decay_mask=_static_decays)),
)
