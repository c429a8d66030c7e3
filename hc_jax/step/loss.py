"""The loss of a language model: cross-entropy of all tokens at once or of a part at a time."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import axes
from hc_jax.step.task import Loss

PyTree = Any
Batch = dict[str, jax.Array]

LARGE = 2**27  # largest number of logits that a device makes at once: half a gigabyte in float32


def token_nats(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Returns the cross-entropy of each token in nats.

  The target's logit is picked by comparison, not by a gather. Forward and backward then fuse into
  one pass each, without a scatter or a copy of the logits. A split vocabulary stays split.

  Args:
    logits: `[..., V]`, any float dtype.
    targets: int32 `[...]`, each from 0 to V - 1. This is not checked: for any other number the
      result is `logsumexp(logits)`.

  Returns:
    float32 `[...]`, neither masked nor averaged.
  """
  logits = logits.astype(jnp.float32)
  ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
  picked = jnp.sum(jnp.where(ids == targets[..., None], logits, 0.0), axis=-1)
  return jax.nn.logsumexp(logits, axis=-1) - picked


def batch_nats(
  model: nn.Module,
  params: PyTree,
  batch: Batch,
  dropout: jax.Array | None = None,
  loss_parts: int = 1,
) -> jax.Array:
  """Returns the nats of each token of a batch, 0 where its mask is 0, float32 `[B, L]`.

  With several parts only the logits of one part of the length exist at a time, and the backward
  pass computes them again. This costs one more matrix product. It saves holding `[B, L, V]`, which
  at large vocabularies is more than twice the activations of a small model.

  Args:
    model: `apply(variables, tokens, segment_ids=, deterministic=)` returns logits `[B, L, V]`. With
      several parts, its method `hidden` takes the same arguments, and `logits` takes a part
      of the result, cut along the length.
    params: parameters of the model.
    batch: `inputs`, `targets`, `mask` and perhaps `segment_ids`, each `[B, L]`.
    dropout: key, or None for no dropout.
    loss_parts: number of parts, a divisor of L. See `parts_of`.
  """
  inputs = axes.constrain(batch["inputs"], (axes.BATCH, axes.LENGTH))
  hidden = model.apply(
    {"params": params},
    inputs,
    segment_ids=batch.get("segment_ids"),
    deterministic=dropout is None,
    rngs=None if dropout is None else {"dropout": dropout},
    method=None if loss_parts == 1 else "hidden",
  )
  if loss_parts == 1:
    return token_nats(hidden, batch["targets"]) * batch["mask"]

  @jax.checkpoint
  def nats(part: tuple[jax.Array, jax.Array]) -> jax.Array:
    logits = model.apply({"params": params}, part[0], method="logits")
    return token_nats(logits, part[1])

  def cut(x: jax.Array) -> jax.Array:
    x = x.reshape(x.shape[0], loss_parts, -1, *x.shape[2:]).swapaxes(0, 1)
    return axes.constrain(x, (None, axes.BATCH, *[None] * (x.ndim - 2)))

  found = jax.lax.map(nats, (cut(hidden), cut(batch["targets"])))
  return found.swapaxes(0, 1).reshape(batch["targets"].shape) * batch["mask"]


def parts_of(length: int, logits: int, wanted: int = 0) -> int:
  """Returns the number of parts of a sequence in which the logits are computed.

  Args:
    length: L, a multiple of the number of parts.
    logits: number of logits of a whole batch on one device: B * L * V / devices.
    wanted: the number to return. For 0 it is the smallest with at most `LARGE` logits per part.
  """
  if wanted:
    return wanted
  enough = [n for n in range(1, length + 1) if length % n == 0 and logits <= n * LARGE]
  return min(enough, default=length)


def token_init(model: nn.Module, length: int = 8) -> Callable[[jax.Array], Any]:
  """Returns `key -> variables` for a model of tokens, traced on `length` tokens."""

  def init(key: jax.Array) -> Any:
    # One row per device, because sharding constraints must divide while init is traced.
    tokens = jnp.zeros((len(jax.devices()), length), jnp.int32)
    return {"params": model.init(key, tokens)["params"]}

  return init


def token_loss(model: nn.Module, loss_parts: int = 1) -> Callable[[Any, Batch, jax.Array], Loss]:
  """Returns `(variables, batch, key) -> Loss`, whose total is the sum of `batch_nats`.

  Only `variables["params"]` is used. The key is that of dropout, or None.

  Args:
    model: model, as in `batch_nats`.
    loss_parts: number of parts, as in `batch_nats`.
  """

  def loss(variables: Any, batch: Batch, key: jax.Array) -> Loss:
    return Loss(jnp.sum(batch_nats(model, variables["params"], batch, key, loss_parts)))

  return loss


def token_weight(batch: Batch) -> jax.Array:
  """Returns the number of tokens that count in a batch, float32 `[]`, at least 1.

  Args:
    batch: `mask`, `[B, L]`, is 1 where a token counts and 0 elsewhere; other keys are not used.
  """
  return jnp.maximum(jnp.sum(batch["mask"], dtype=jnp.float32), 1.0)


def eval_step(
  params: PyTree,
  batch: Batch,
  *,
  model: nn.Module,
  token_bytes: jax.Array,
  loss_parts: int = 1,
) -> dict[str, jax.Array]:
  """Returns sums over one batch, without dropout, for `summary`.

  Args:
    params: parameters of the model.
    batch: see `batch_nats`.
    model: see `batch_nats`.
    token_bytes: int32 `[V]`, number of bytes of text of each token, 0 for special tokens.
    loss_parts: see `batch_nats`.

  Returns:
    Scalars: `nats` and `tokens` over tokens with mask 1; `text_nats` and `bytes` over those tokens
    except special ones.
  """
  nats = batch_nats(model, params, batch, loss_parts=loss_parts)
  counts = batch["mask"] > 0
  size = jnp.where(counts, jnp.asarray(token_bytes)[batch["targets"]], 0)
  return {
    "nats": jnp.sum(nats),
    "tokens": jnp.sum(batch["mask"]),
    "text_nats": jnp.sum(jnp.where(size > 0, nats, 0.0)),
    "bytes": jnp.sum(size),
  }


def summary(total: Mapping[str, float]) -> dict[str, float]:
  """Returns the means that follow from the sums of `eval_step` over a set.

  Returns:
    `val/loss` in nats per token, `val/ppl`, its exponential, and `val/bpb`. The last is
    `text_nats / (ln 2 * bytes)`, without special and masked tokens; it is left out if `bytes` is 0.
  """
  loss = total["nats"] / max(total["tokens"], 1.0)
  out = {"val/loss": loss, "val/ppl": math.exp(min(loss, 700.0))}
  if total["bytes"]:
    out["val/bpb"] = total["text_nats"] / (math.log(2) * total["bytes"])
  return out
