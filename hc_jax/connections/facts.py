"""What a variant claims of itself, so that its claims can be held against it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Facts:
  """Claims of one connection, with its fields as they are; a claim that is None is not made.

  `hc_jax.testing.conformance` tests every claim, and that what is not claimed for a reason says so.

  Attributes:
    source: paper or code, and equations.
    num_params: parameters of one site, for the free form; the declared form counts them itself.
    residual_at_init: a network of this connection starts as the Pre-Norm residual network of the
      same branches: largest relative distance of the logits. None: it does not.
    mix_rows_sum_to_one: the rows of mix do, to within this.
    mix_columns_sum_to_one: its columns do. Where one of both is claimed, the other holds more or
      less (Sinkhorn).
    mix_is_orthogonal: `mix @ mix.T` is the identity, to within this.
    note: what a user should know of how it starts.
  """

  source: str = ""
  num_params: int | None = None
  residual_at_init: float | None = None
  mix_rows_sum_to_one: float | None = None
  mix_columns_sum_to_one: float | None = None
  mix_is_orthogonal: float | None = None
  note: str = ""
