"""Table of a model's parameters: shapes, weight decay, counts."""

import collections
import math
from typing import Any

from hc_jax.params import decay_mask, named_leaves, param_count
from hc_jax.tables import aligned


def param_lines(shapes: Any, title: str = "parameter") -> list[str]:
  """Returns a line for each parameter, followed by the sums.

  Args:
    shapes: tree of parameters, or of their shapes and dtypes.
    title: head of the first column.
  """
  leaves, decays = dict(named_leaves(shapes)), dict(named_leaves(decay_mask(shapes)))
  sizes = {path: math.prod(leaf.shape) for path, leaf in leaves.items()}
  rows = [[title, "shape", "dtype", "decay", "count"]]
  for path, leaf in leaves.items():
    shape, decay = "x".join(map(str, leaf.shape)), "yes" if decays[path] else "no"
    rows.append([path, shape, str(leaf.dtype), decay, f"{sizes[path]:,}"])
  return [*aligned(rows, right=(4,)), "", *_sums(shapes, leaves, sizes, decays)]


def _sums(shapes: Any, leaves: dict, sizes: dict[str, int], decays: dict[str, bool]) -> list[str]:
  count = param_count(shapes)
  dtypes: dict[str, int] = collections.defaultdict(int)
  for path, leaf in leaves.items():
    dtypes[str(leaf.dtype)] += sizes[path]
  decayed = sum(size for path, size in sizes.items() if decays[path])
  share = 100 * count.connection / max(count.total, 1)
  rows = [
    ["total", f"{count.total:,}", ", ".join(f"{n:,} {dtype}" for dtype, n in dtypes.items())],
    ["embedding", f"{count.embedding:,}", ""],
    ["hyper-connection", f"{count.connection:,}", f"{share:.4f} %"],
    ["with weight decay", f"{decayed:,}", ""],
    ["without", f"{count.total - decayed:,}", ""],
  ]
  return aligned([[name, value, f"({note})" if note else ""] for name, value, note in rows], (1,))
