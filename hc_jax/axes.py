"""Logical names of arrays' axes. They say what an axis is, never which device axis holds it.

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
  """Returns the axis names of streams `[batch, length, ..., n, w]`; leading axes may be missing."""
  leading = (BATCH, LENGTH) + (None,) * ndim
  return leading[: max(ndim - 2, 0)] + (STREAM, EMBED)


def constrain(x: jax.Array, names: Sequence[str | None]) -> jax.Array:
  """Constrains the sharding of `x` by logical names; does nothing without a mesh and rules."""
  return nn.with_logical_constraint(x, tuple(names))


def partitioned(
  init: nn.initializers.Initializer, *names: str | None
) -> Callable[..., nn.LogicallyPartitioned]:
  """Returns an initializer whose parameter carries the logical names of its axes."""
  return nn.with_logical_partitioning(init, names)


def unboxed(tree: Any) -> Any:
  """Returns parameters without partitioning metadata; they may be abstract.

  Flax's own `meta.unbox` applies a constraint under a mesh, which fails on abstract values.
  """
  is_box = lambda leaf: isinstance(leaf, nn.Partitioned)  # noqa: E731
  return jax.tree.map(lambda leaf: leaf.value if is_box(leaf) else leaf, tree, is_leaf=is_box)
