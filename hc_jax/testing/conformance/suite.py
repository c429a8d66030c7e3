"""The conformance suite: what every connection has to keep, whoever wrote it.

    check_connection(functools.partial(Mine, num_streams=4))

Every variant in the table `CONNECTIONS` goes through it in this package's own tests.
"""

from collections.abc import Callable

from hc_jax.connections import ConnectionLike, connection_factory
from hc_jax.testing.conformance import everywhere, network, site
from hc_jax.testing.conformance.candidate import Candidate
from hc_jax.testing.traps.selftest import examine
from hc_jax.testing.traps.table import NotApplicable as NotApplicable
from hc_jax.testing.traps.table import Trap

_CHECKS = (
  ("shapes", "shapes, dtypes and state of the contract", site.shapes_and_dtypes),
  ("counts", "parameters are those of the formula, and know their decay", site.counts),
  ("maps", "read, write and mix are the reference's, mix[i, j] from j into i", site.orientation),
  ("claims", "mix is what the facts claim", site.mix_claims),
  ("bf16", "bf16 streams, float32 coefficients", site.bfloat16),
  ("grads", "derivatives are the reference's, of coefficients too", site.derivatives),
  ("vjp", "hand-written derivatives are autodiff's", site.implementations),
  ("value", "finish is a value, and ops.boundary bitwise its parts", everywhere.is_a_value),
  ("whole", "an index that is not a whole number is refused", everywhere.whole_index),
  ("empty", "no tokens come out as no tokens", everywhere.empty),
  ("x64", "jax_enable_x64 changes no parameter and no map", everywhere.x64),
  ("jvp", "forward mode works with autodiff, and its refusal says so", everywhere.forward_mode),
  ("second", "derivatives of gradients are autodiff's", everywhere.second_derivatives),
  ("shard", "jax.shard_map with its defaults agrees", everywhere.shard_map),
  ("pmap", "jax.pmap with summed gradients agrees", everywhere.pmap),
  ("explicit", "a mesh with explicit axes agrees", everywhere.explicit_mesh),
  ("init", "starts as the residual network, or says that it does not", network.starts_as_claimed),
  ("index", "the index counts sublayers", network.index_counts),
  ("causal", "no token sees its future or another row", network.causality),
  (
    "exact",
    "the network is Algorithm 1 in float64, forward and gradients",
    network.agrees_with_the_reference,
  ),
  ("ways", "unrolled, rematerialised and autodiff agree with the scan", network.every_way_agrees),
  ("half", "a bf16 network is as near to float64 as the residual", network.half_precision),
  ("decode", "decoding agrees with the whole", network.decoding),
  ("learns", "every parameter of every site learns", network.learning),
  ("once", "the second step compiles nothing", network.compiles_once),
  ("mesh", "a 2 x 2 x 2 mesh agrees with one device, and splits the streams", network.sharded),
)
CONFORMANCE = tuple(Trap(*check) for check in _CHECKS)


def check_connection(
  connection: ConnectionLike, name: str | None = None, log: Callable[[str], None] = print
) -> None:
  """Runs the conformance suite on a connection and prints a line for each check.

  Args:
    connection: a class, a partial of one, or an instance.
    name: for the messages; the class's by default.
    log: gets each line.

  Raises:
    AssertionError: naming every check that failed, and why.
  """
  candidate = Candidate(name or connection_factory(connection).func.__name__, connection)
  failures = []
  for check in CONFORMANCE:
    state, why = examine(check, candidate)
    log(f"{check.name:<9}{state}  {check.title}{why and f': {why}'}")
    if state == "FAIL":
      failures.append(f"{check.name}: {why}")
  if failures:
    raise AssertionError(f"{candidate.name} fails " + "; ".join(failures))
