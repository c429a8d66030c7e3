"""Site: the record of one connection in one forward pass."""

import dataclasses

import numpy as np

from hc_jax.coefs import Coefs
from hc_jax.connections import Call


@dataclasses.dataclass(frozen=True)
class Site:
  """The record of one connection in one forward pass; `[...]` are the token axes.

  Attributes:
    coefs: maps of the connection, float32; dynamic maps have the token axes in front.
    streams: `[..., n, w]`, the streams that the connection read.
    branch_input: `[..., d]`, or `[..., views, d]` with several views, before the branch's norm.
    branch_output: `[..., d]`, the output that was written; None if none was written.
    index: number of the sublayer, from 0, that the model passed to the connection; None if unknown.
    end: `[m, n]`, weights of the streams in which a network of such connections ends; None if the
      network ends in all streams.
  """

  coefs: Coefs
  streams: np.ndarray
  branch_input: np.ndarray
  branch_output: np.ndarray | None
  index: int | None = None
  end: np.ndarray | None = None


def end_of(call: Call) -> np.ndarray | None:
  """Returns `Site.end` of a call, without weights that the end itself learns.

  The end is stream 0 for `hc_jax.X0Lambdas`, with or without backout. It is the last stream if the
  end is one more weighted sum (`reduce="exit"`).
  """
  kind, n = call.connection.reduce_kind, call.streams.shape[-2]
  if kind == "exit":
    return np.eye(1, n, n - 1, dtype=np.float32)
  if kind not in ("first", "backout"):
    return None
  return np.eye(call.connection.fractions, n, dtype=np.float32)
