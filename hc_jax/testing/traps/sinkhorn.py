"""Trap T4, for connections whose mix is made by Sinkhorn."""

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import axes
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.harness import FORWARD, NotApplicable, check
from hc_jax.testing.reference.table import matrices_of
from hc_jax.testing.traps.subject import STREAMS, Subject, distance, site_streams


def sinkhorn_is_per_token(subject: Subject) -> None:
  """Checks T4: every token's mix `[n, n]` has row sums of one, column sums near one, and learns.

  Sinkhorn over an axis of size one gives all ones; over the token axis it mixes tokens.
  """
  if subject.mhc is None:
    raise NotApplicable("it has no Sinkhorn variant")
  connection = subject.mhc(num_streams=STREAMS)
  streams = site_streams()
  shapes = axes.unboxed(jax.eval_shape(connection.init, jax.random.key(0), streams, 0))["params"]
  params = {name: 0.3 * normal(name, *leaf.shape) for name, leaf in shapes.items()}
  params["mix_scale"] = np.float32([1.0])
  weights = normal("mix", *streams.shape[:-1], STREAMS)

  @jit
  def run(params):
    def loss(params):
      mix = connection.apply({"params": params}, streams, 0)[1].mix
      return jnp.sum(weights * mix), mix

    return jax.value_and_grad(loss, has_aux=True)(params)

  (_, mix), grads = run(params)
  mix = np.asarray(mix, np.float64)
  check(
    mix.shape == weights.shape, f"mix of streams {streams.shape} is {mix.shape}, not [B, L, n, n]"
  )
  for axis, name, bound in ((-1, "rows", 1e-5), (-2, "columns", 1e-2)):
    worst = np.abs(mix.sum(axis) - 1).max()
    check(
      worst < bound,
      f"sums of {name} of a Sinkhorn mix [B, L, n, n] differ from one by {worst:.1e}: Sinkhorn "
      "runs over other axes than the last two, or ends on columns",
    )
  for name in ("mix_kernel", "mix_bias", "mix_scale"):
    check(
      np.linalg.norm(grads[name]) > 1e-3, f"a Sinkhorn mix does not learn: no gradient for {name}"
    )
  want = matrices_of(connection, params)(streams.astype(np.float64)).A_r.swapaxes(-1, -2)
  check(
    distance(mix, want) < FORWARD,
    "a token's Sinkhorn mix is not made from its own logits alone (2512.24880 Eq. 7-9)",
  )
