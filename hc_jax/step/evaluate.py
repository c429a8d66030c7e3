"""Loss on a fixed, ordered set: nats per token, perplexity, bits per byte."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hc_jax.step.feed import to_devices


def evaluate(
  step: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]],
  params: Any,
  batches: Iterable[dict[str, np.ndarray]],
  mesh: Mesh,
) -> dict[str, float]:
  """Means over all tokens of `batches`, whatever their split into batches.

  Args:
    step: `hc_jax.train.eval_step` with its keywords bound, jitted.
    params: of the model.
    batches: the set, in order.
    mesh: where the batches go.

  Returns:
    `val/loss` in nats per token, `val/ppl` = exp of it, and `val/bpb`: nats over tokens that stand
    for text / (ln 2 * their bytes), special and masked tokens excluded (no key without any).
  """
  return summary(batch_sums(step, params, batches, mesh))


def batch_sums(
  step: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]],
  params: Any,
  batches: Iterable[dict[str, np.ndarray]],
  mesh: Mesh,
) -> list[dict[str, Any]]:
  """The sums of `eval_step` for each batch; see `evaluate`."""
  sums = [step(params, to_devices(batch, mesh)) for batch in batches]  # all launched, then read
  return jax.device_get(sums)


def summary(sums: list[dict[str, Any]]) -> dict[str, float]:
  """The means that follow from the sums of `eval_step`, added in float64."""
  total = {name: math.fsum(float(s[name]) for s in sums) for name in sums[0]}
  loss = total["nats"] / max(total["tokens"], 1.0)
  out = {"val/loss": loss, "val/ppl": math.exp(min(loss, 700.0))}
  if total["bytes"]:
    out["val/bpb"] = total["text_nats"] / (math.log(2) * total["bytes"])
  return out
