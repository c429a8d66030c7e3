"""The conformance suite: rules that every connection must keep, whoever wrote it.

    check_connection(functools.partial(Mine, num_streams=4))

The tests of this package run it on every variant in the table `CONNECTIONS`.
"""

from collections.abc import Callable

from hc_jax.connections import ConnectionLike, connection_factory
from hc_jax.testing.conformance import everywhere, network, site
from hc_jax.testing.conformance.candidate import Candidate
from hc_jax.testing.traps.selftest import examine
from hc_jax.testing.traps.table import NotApplicable as NotApplicable
from hc_jax.testing.traps.table import Trap

_CHECKS = (
  ("shapes", "shapes, dtypes and state follow the contract", site.shapes_and_dtypes),
  ("counts", "the number of parameters equals its formula", site.counts),
  ("maps", "read, write and mix equal the reference, mix[i, j] from j into i", site.orientation),
  ("claims", "mix is as the facts claim", site.mix_claims),
  ("bf16", "bf16 streams have float32 coefficients", site.bfloat16),
  ("grads", "derivatives equal the reference, also through coefficients", site.derivatives),
  ("vjp", "hand-written derivatives equal autodiff", site.implementations),
  ("value", "finish holds no arrays, and ops.boundary equals its parts", everywhere.is_a_value),
  ("whole", "an index that is not a whole number is refused", everywhere.whole_index),
  ("empty", "zero tokens give zero tokens", everywhere.empty),
  ("x64", "jax_enable_x64 changes no parameter and no map", everywhere.x64),
  ("jvp", "forward mode works with autodiff; otherwise the error says so", everywhere.forward_mode),
  ("second", "derivatives of gradients equal autodiff", everywhere.second_derivatives),
  ("shard", "gradients under jax.shard_map are the same", everywhere.shard_map),
  ("pmap", "summed gradients under jax.pmap are the same", everywhere.pmap),
  ("explicit", "gradients on a mesh with explicit axes are the same", everywhere.explicit_mesh),
  ("init", "starts as the residual network, or states that not", network.starts_as_claimed),
  ("index", "the index counts sublayers", network.index_counts),
  ("causal", "no token sees its future or another row", network.causality),
  (
    "exact",
    "the network equals Algorithm 1 in float64, forward and gradients",
    network.agrees_with_the_reference,
  ),
  ("ways", "unrolled, rematerialised and autodiff equal the scan", network.every_way_agrees),
  ("half", "a bf16 network is as near to float64 as the residual", network.half_precision),
  ("decode", "decoding token by token equals the whole", network.decoding),
  ("learns", "every parameter of every site learns", network.learning),
  ("once", "the second step compiles nothing", network.compiles_once),
  ("mesh", "a 2 x 2 x 2 mesh equals one device, and splits the streams", network.sharded),
)
CONFORMANCE = tuple(Trap(*check) for check in _CHECKS)


def check_connection(
  connection: ConnectionLike, name: str | None = None, log: Callable[[str], None] = print
) -> None:
  """Runs the conformance suite on a connection, and prints a line for each check.

  The connection is run alone and in tiny networks on the CPU or any other device. Checks that need
  more devices than there are, or a float64 reference that does not exist, are skipped.

  Args:
    connection: a `Connection` class, a `functools.partial` of one, or an instance.
    name: name in messages; the name of the class by default.
    log: function that receives each line.

  Raises:
    AssertionError: if any check failed; the message names each failed check, with its reason.
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
