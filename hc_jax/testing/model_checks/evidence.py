"""Evidence: the recorded calls of a model's connections, and comparison of numbers."""

import dataclasses
import functools

import numpy as np

from hc_jax.testing.harness import check
from hc_jax.testing.model_checks.watch import Visit, Watched


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of `check_model`, with the same meaning."""

  causal_axis: int | None = None
  post_norm: bool = False
  learned_ends: bool = False


class Evidence:
  """The recorded run of a model with parameters away from their initial values.

  Attributes:
    model: model, which can be run again.
    options: options of `check_model`.
    outputs: leaves of the model's output.
    visits: reads and writes in order.

  Raises:
    AssertionError: if the model called no connection, or its output depends on none.
  """

  def __init__(self, model: Watched, options: Options):
    self.model, self.options = model, options
    self.outputs, self.visits = model.run(model.kicked)
    check(bool(model.sites), "no connection of hc_jax was called")
    check(
      bool(self.visits),
      "the output does not depend on any connection; return hc_jax.reduce of the last streams",
    )

  @functools.cached_property
  def reads(self) -> list[Visit]:
    """Returns the reads in order."""
    return [visit for visit in self.visits if visit.kind == "read"]

  @functools.cached_property
  def writes(self) -> list[Visit]:
    """Returns the writes in order; raises AssertionError if no connection writes."""
    found = [visit for visit in self.visits if visit.kind == "write"]
    check(bool(found), "no connection writes")
    return found

  @property
  def fractions(self) -> int:
    """Returns the number of fractions m of the connections."""
    return self.visits[0].site.connection.fractions


def close(a: np.ndarray, b: np.ndarray, limit: float = 1e-5) -> bool:
  """Returns whether arrays agree to `limit` (2e-2 if one has 16 bits) times the largest entry."""
  if a.shape != b.shape:
    return False
  if min(a.dtype.itemsize, b.dtype.itemsize) < 4:
    limit = 2e-2
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return bool(np.abs(a - b).max(initial=0) <= limit * max(np.abs(b).max(initial=0), 1e-30))


def are_copies(streams: np.ndarray, fractions: int) -> bool:
  """Returns whether each stream j equals stream `j mod m`, and there are more than m streams."""
  n = streams.shape[-2]
  return n > fractions and close(streams, streams[..., [j % fractions for j in range(n)], :])
