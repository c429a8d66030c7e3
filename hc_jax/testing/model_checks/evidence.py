"""What was seen of a model that uses connections, and when numbers are equal."""

import dataclasses
import functools

import numpy as np

from hc_jax.testing.harness import check
from hc_jax.testing.model_checks.watch import Visit, Watched


@dataclasses.dataclass(frozen=True)
class Options:
  """As in `check_model`."""

  causal_axis: int | None = None
  post_norm: bool = False
  learned_ends: bool = False


class Evidence:
  """What was seen of a model at its kicked parameters.

  Attributes:
    model: to be run again.
    options: of `check_model`.
    outputs: the leaves of what it returned.
    visits: reads and writes in their order.

  Raises:
    AssertionError: if it called no connection.
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
    """The reads."""
    return [visit for visit in self.visits if visit.kind == "read"]

  @functools.cached_property
  def writes(self) -> list[Visit]:
    """The writes; AssertionError if there is none."""
    found = [visit for visit in self.visits if visit.kind == "write"]
    check(bool(found), "no connection writes")
    return found

  @property
  def fractions(self) -> int:
    """m of the connections."""
    return self.visits[0].site.connection.fractions


def close(a: np.ndarray, b: np.ndarray, limit: float = 1e-5) -> bool:
  """Equal to rounding: to `limit` of the largest, and to 2e-2 where either has 16 bits."""
  if a.shape != b.shape:
    return False
  if min(a.dtype.itemsize, b.dtype.itemsize) < 4:
    limit = 2e-2
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return bool(np.abs(a - b).max(initial=0) <= limit * max(np.abs(b).max(initial=0), 1e-30))


def are_copies(streams: np.ndarray, fractions: int) -> bool:
  """Whether stream j is stream `j mod m`, and there are more than m."""
  n = streams.shape[-2]
  return n > fractions and close(streams, streams[..., [j % fractions for j in range(n)], :])
