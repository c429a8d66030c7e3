"""Claims of a variant about itself, in a form that tests can check."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Facts:
  """Claims of one connection with given fields. None means that a claim is not made.

  `hc_jax.testing.conformance` tests every claim. A variant that claims anything but not
  `residual_at_init` must have a note.

  Attributes:
    source: paper or code, and equations.
    num_params: number of parameters of one site, for the free form; the declared form counts them.
    residual_at_init: largest relative distance of the logits at initialisation from the Pre-Norm
      residual network of the same branches. None: the network does not start as that one.
    mix_rows_sum_to_one: largest distance of the row sums of mix from one.
    mix_columns_sum_to_one: largest distance of the column sums of mix from one. Sinkhorn makes one
      of both exact and the other approximate; then only the exact one is claimed.
    mix_is_orthogonal: largest distance of `mix @ mix.T` from the identity.
    note: what a user should know about the initial state.
  """

  source: str = ""
  num_params: int | None = None
  residual_at_init: float | None = None
  mix_rows_sum_to_one: float | None = None
  mix_columns_sum_to_one: float | None = None
  mix_is_orthogonal: float | None = None
  note: str = ""
