"""Table of the twenty traps: mistakes in hyper-connection code, each seen in some implementation.

for trap in TRAPS:
  trap.run(Subject())        # AssertionError: one line that names the broken convention
"""

import dataclasses
from collections.abc import Callable

from hc_jax.testing.harness import NotApplicable as NotApplicable
from hc_jax.testing.traps import networks, paths
from hc_jax.testing.traps import one_site as wiring
from hc_jax.testing.traps import sinkhorn as wiring_sinkhorn
from hc_jax.testing.traps.subject import Subject as Subject


@dataclasses.dataclass(frozen=True)
class Trap:
  """A mistake, and the function that finds it.

  Attributes:
    name: short name, "T1" to "T20" for the traps.
    title: short description, printed next to the result.
    run: function of a subject. It raises AssertionError with one line if the subject makes the
      mistake, and `NotApplicable` if the subject lacks the feature.
  """

  name: str
  title: str
  run: Callable[[Subject], None]


_TRAPS = (
  ("mix computed and never used", wiring.mix_is_used),
  ("mix transposed", wiring.mix_is_oriented),
  ("streams collapsed per block", networks.streams_cross_blocks),
  ("Sinkhorn over the wrong axes", wiring_sinkhorn.sinkhorn_is_per_token),
  ("final norm before reduce", networks.reduce_comes_before_the_final_norm),
  ("reduce by the mean, not the sum", networks.reduce_is_the_sum),
  ("initial index constant, random or per block", networks.init_counts_sublayers),
  ("sigmoid or softmax over plain initial values", wiring.starts_as_equation_14),
  ("dynamic part not zero at init, or scaled wrongly", networks.dynamic_part_starts_at_zero),
  ("a norm other than the chosen one", wiring.norm_is_the_one_asked_for),
  ("tanh missing, or used when disabled", wiring.tanh_is_what_is_asked_for),
  ("weight decay by rank", networks.decay_goes_by_name),
  ("coefficients in bf16", wiring.coefs_are_float32),
  ("parameters not initialised", wiring.init_is_finite_and_stable),
  ("dropout on all streams", networks.dropout_spares_the_streams),
  ("parameters without a gradient", networks.everything_learns),
  ("option ignored", wiring.options_are_heard),
  ("leaks from future tokens or other sequences", networks.nothing_leaks),
  ("one path differs: jit, scan, remat, decode, bf16", paths.all_paths_agree),
  ("one stream does not equal the residual", networks.one_stream_is_the_residual),
)
TRAPS = tuple(Trap(f"T{i}", title, run) for i, (title, run) in enumerate(_TRAPS, 1))
