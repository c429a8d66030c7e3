"""One connection in one forward pass."""

import dataclasses

import numpy as np

from hc_jax.coefs import Coefs


@dataclasses.dataclass(frozen=True)
class Site:
  """What one connection did in one forward pass.

  Attributes:
    coefs: its maps, float32; dynamic ones have the axes of the tokens.
    streams: `[..., n, w]`, those that it read.
    branch_input: `[..., d]` (`[..., views, d]` with several views), before the branch's norm.
    branch_output: `[..., d]`, as it was written; None if nothing was.
    index: which sublayer of the network the connection was told that it is; None if unknown.
  """

  coefs: Coefs
  streams: np.ndarray
  branch_input: np.ndarray
  branch_output: np.ndarray | None
  index: int | None = None
