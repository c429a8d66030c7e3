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

LARGE = 2**27  # logits of a device that are made at once: half a gigabyte in float32


def token_nats(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Cross-entropy of each token in float32 nats.

  The target's logit is picked by comparison and not by a gather: forward and backward then fuse
  into one pass each, without a scatter or a copy of the logits, and a split vocabulary stays split.

  Args:
    logits: `[..., V]`, any float dtype.
    targets: int32 `[...]`.

  Returns:
    float32 `[...]`.
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
  """Nats of each token of a batch, 0 where its mask is 0; float32 `[B, L]`.

  With several parts the logits of one part of the length exist at a time, and the backward pass
  makes them again: one matrix product more in exchange for never holding `[B, L, V]`, which at
  large vocabularies is more than all activations of a small model, twice.

  Args:
    model: `apply(variables, tokens, segment_ids=, deterministic=) -> logits [B, L, V]`; with
      several parts its methods `hidden` (the same arguments) and `logits` (of what that gives).
    params: of the model.
    batch: `inputs`, `targets`, `mask` and perhaps `segment_ids`, each `[B, L]`.
    dropout: key, or None for no dropout.
    loss_parts: how many; divides L. See `parts_of`.
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
  """In how many parts of a sequence to make the logits.

  Args:
    length: L, which the parts divide.
    logits: how many a device would hold of a whole batch: B * L * V / devices.
    wanted: that many; 0 for the fewest that keep a part at `LARGE` logits or below.
  """
  if wanted:
    return wanted
  enough = [n for n in range(1, length + 1) if length % n == 0 and logits <= n * LARGE]
  return min(enough, default=length)


def token_init(model: nn.Module, length: int = 8) -> Callable[[jax.Array], Any]:
  """Returns `key -> variables` of a model of tokens, traced on `length` of them."""

  def init(key: jax.Array) -> Any:
    # A batch and length of their own size: a constraint by name must divide while init is traced.
    tokens = jnp.zeros((len(jax.devices()), length), jnp.int32)
    return {"params": model.init(key, tokens)["params"]}

  return init


def token_loss(model: nn.Module, loss_parts: int = 1) -> Callable[[Any, Batch, jax.Array], Loss]:
  """Returns `(variables, batch, key) -> Loss` in nats; arguments as `batch_nats`."""

  def loss(variables: Any, batch: Batch, key: jax.Array) -> Loss:
    return Loss(jnp.sum(batch_nats(model, variables["params"], batch, key, loss_parts)))

  return loss


def token_weight(batch: Batch) -> jax.Array:
  """Returns the number of tokens that count in a batch, float32, at least 1."""
  return jnp.maximum(jnp.sum(batch["mask"]), 1.0)


def eval_step(
  params: PyTree,
  batch: Batch,
  *,
  model: nn.Module,
  token_bytes: jax.Array,
  loss_parts: int = 1,
) -> dict[str, jax.Array]:
  """Returns sums over one batch, without dropout, of which `summary` makes means.

  Args:
    params: parameters of the model.
    batch: see `batch_nats`.
    model: see `batch_nats`.
    token_bytes: int32 `[V]`, bytes of text that a token stands for, 0 for special tokens.
    loss_parts: see `batch_nats`.

  Returns:
    Scalars: `nats` and `tokens` over tokens that count; `text_nats` and `bytes` over those of them
    that stand for text.
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
    `val/loss` in nats per token, `val/ppl` = exp of it, and `val/bpb`: nats over tokens that stand
    for text / (ln 2 * their bytes), special and masked tokens excluded (no key without any).
  """
  loss = total["nats"] / max(total["tokens"], 1.0)
  out = {"val/loss": loss, "val/ppl": math.exp(min(loss, 700.0))}
  if total["bytes"]:
    out["val/bpb"] = total["text_nats"] / (math.log(2) * total["bytes"])
  return out
