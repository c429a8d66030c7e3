"""One connection in one forward pass."""

import dataclasses

import numpy as np

from hc_jax.coefs import Coefs
from hc_jax.connections import Call


@dataclasses.dataclass(frozen=True)
class Site:
  """What one connection did in one forward pass.

  Attributes:
    coefs: its maps, float32; dynamic ones have the axes of the tokens.
    streams: `[..., n, w]`, those that it read.
    branch_input: `[..., d]` (`[..., views, d]` with several views), before the branch's norm.
    branch_output: `[..., d]`, as it was written; None if nothing was.
    index: which sublayer of the network the connection was told that it is; None if unknown.
    end: `[m, n]`, the streams in which a network of such connections ends; None for all of them.
  """

  coefs: Coefs
  streams: np.ndarray
  branch_input: np.ndarray
  branch_output: np.ndarray | None
  index: int | None = None
  end: np.ndarray | None = None


def end_of(call: Call) -> np.ndarray | None:
  """Returns `Site.end` of a call: the stream that the end is made of, but for what it learns.

  That is stream 0 for `hc_jax.X0Lambdas`, with backout or without, and the last one where the end
  is one more weighted sum (`reduce="exit"`).
  """
  kind, n = call.connection.reduce_kind, call.streams.shape[-2]
  if kind == "exit":
    return np.eye(1, n, n - 1, dtype=np.float32)
  if kind not in ("first", "backout"):
    return None
  return np.eye(call.connection.fractions, n, dtype=np.float32)
