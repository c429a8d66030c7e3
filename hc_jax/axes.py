"""Logical axis names, in one place: what an array's axis is, never which device axis holds it.

`hc_jax.sharding.RULES` maps these names to mesh axes. A name without a rule is replicated.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

# Activations.
BATCH, LENGTH, STREAM, EMBED = "act_batch", "act_length", "act_stream", "act_embed"
HEADS, KV_HEADS, MLP, VOCAB = "act_heads", "act_kv", "act_mlp", "act_vocab"


def stream_axes(ndim: int) -> tuple[str | None, ...]:
  """Axis names of streams `[batch, length, ..., n, w]`; leading axes may be missing."""
  leading = (BATCH, LENGTH) + (None,) * ndim
  return leading[: max(ndim - 2, 0)] + (STREAM, EMBED)


def constrain(x: jax.Array, names: Sequence[str | None]) -> jax.Array:
  """Constrains the sharding of `x` by logical names; does nothing without a mesh and rules."""
  return nn.with_logical_constraint(x, tuple(names))


def partitioned(
  init: nn.initializers.Initializer, *names: str | None
) -> Callable[..., nn.LogicallyPartitioned]:
  """An initializer whose parameter carries the logical names of its axes."""
  return nn.with_logical_partitioning(init, names)


def unboxed(tree: Any) -> Any:
  """Parameters without partitioning metadata, abstract ones too, and without constraining them.

  (Flax's own `meta.unbox` applies a constraint under a mesh, which abstract values do not take.)
  """
  is_box = lambda leaf: isinstance(leaf, nn.Partitioned)  # noqa: E731
  return jax.tree.map(lambda leaf: leaf.value if is_box(leaf) else leaf, tree, is_leaf=is_box)
