"""Trap T19: every way to run a network, compared with one float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import params as hc_params
from hc_jax.models import unstack_layers
from hc_jax.testing.compiled import normal
from hc_jax.testing.harness import FORWARD, GRADIENT, check
from hc_jax.testing.reference import hyper as reference
from hc_jax.testing.reference import transformer
from hc_jax.testing.traps.one_site import Y
from hc_jax.testing.traps.subject import (
  SCANNED,
  STREAMS,
  TOKENS,
  Subject,
  decoded,
  distance,
  exact,
  forward,
  initial,
  kicked,
  network,
  residual,
  site,
  site_params,
  site_streams,
  value_and_grad,
)


def all_paths_agree(subject: Subject) -> None:
  """Checks T19: every way to run a network equals the float64 reference, with its gradients."""
  params, streams = site_params(), site_streams()
  H = streams.astype(np.float64)
  connection = subject.connection(num_streams=STREAMS)
  h, coefs = connection.apply({"params": params}, streams, 0)
  out = connection.apply({"params": params}, streams, Y, coefs, method="write")
  m = reference.from_params(params)(H)
  check(
    distance(out, reference.sublayer(H, m, lambda h: Y)) < FORWARD,
    "one connection, run eagerly, does not equal the float64 reference",
  )
  logits, gradients = exact(STREAMS)
  for path in GRADIENT_PATHS:
    model = network(subject, **path)
    (_, found), grads = value_and_grad(subject, **path)(kicked(model), TOKENS)
    words = ", ".join(f"{name}={value}" for name, value in path.items())
    check(
      distance(found, logits) < FORWARD,
      f"logits with {words} are not those of the float64 reference",
    )
    grads = unstack_layers(grads) if model.scan else grads
    check(
      distance(dict(hc_params.named_leaves(grads)), dict(gradients)) < GRADIENT,
      f"gradients with {words} are not those of the float64 reference",
    )
  model = network(subject)
  check(
    distance(decoded(model, kicked(model), TOKENS), logits) < FORWARD,
    "decoding token by token does not give the logits of the float64 reference",
  )
  _bfloat16(subject)


GRADIENT_PATHS = (
  SCANNED,
  {"scan": True, "remat": "branches", "derivatives": "custom"},
  {"scan": False, "remat": "full", "derivatives": "autodiff"},
)


def _bfloat16(subject: Subject) -> None:
  """Checks bf16: errors of a site under 6e-3, of a network under 1.5 times the residual's.

  Both networks have the same branches. Connections are near their initial values, because a network
  with random maps amplifies rounding in any dtype.
  """
  streams, y = (jnp.asarray(a, jnp.bfloat16) for a in (site_streams(), Y))
  m = reference.from_params(site_params())(np.asarray(streams, np.float64))
  H, branch = np.asarray(streams, np.float64), np.asarray(y, np.float64)
  found = site(subject)(site_params(), streams, y)[2]
  check(
    distance(found, reference.sublayer(H, m, lambda h: branch)) < 6e-3,
    "one connection with bf16 streams is more than 6e-3 away from float64",
  )
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      leaf + 0.05 * normal(hc_params.path_name(path), *leaf.shape)
      if hc_params.is_connection(hc_params.path_name(path))
      else leaf
    ),
    initial(subject),
  )
  errors = {}
  for n, of in ((0, residual(subject, params)), (STREAMS, params)):
    flat = dict(hc_params.named_leaves(unstack_layers(of)))
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in flat.items()}
    want = transformer.logits(network(Subject(), n=n), flat, TOKENS)
    errors[n] = distance(forward(subject, n=n, dtype=jnp.bfloat16)(of).logits, want)
  check(
    errors[STREAMS] < 1.5 * errors[0],
    f"in bf16 the network is {errors[STREAMS]:.1e} away from float64, more than 1.5 times as far "
    f"as the residual network ({errors[0]:.1e})",
  )
