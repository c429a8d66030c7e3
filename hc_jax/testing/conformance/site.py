"""Conformance of one connection alone: its outputs, claims and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import params as hc_params
from hc_jax.coefs import Coefs
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.conformance import candidate as cd
from hc_jax.testing.conformance.candidate import Candidate, site, site_params
from hc_jax.testing.harness import FORWARD, GRADIENT, NotApplicable, check
from hc_jax.testing.traps.subject import distance

BFLOAT16 = 6e-3  # largest relative error of one connection with bf16 streams


def output(lead: tuple[int, ...] = cd.LEAD) -> np.ndarray:
  """Returns a branch output `[*lead, d]`."""
  return normal("y", *lead, cd.WIDTH)


def shapes_and_dtypes(candidate: Candidate) -> None:
  """Checks shapes, float32 coefficients, and that the only state is parameters."""
  module, streams = candidate.module, candidate.streams()
  variables = module.init(jax.random.key(0), streams, 1)
  others = set(variables) - {"params", "intermediates"}
  check(not others, f"a connection may have only parameters, but has {sorted(others)}")
  n, m, d = module.num_streams, module.fractions, cd.WIDTH
  views = () if module.num_views == 1 else (module.num_views,)
  for dtype in (jnp.float32, jnp.bfloat16):
    h, coefs, out = jax.eval_shape(
      site(candidate, eager=True),
      site_params(candidate),
      jax.ShapeDtypeStruct(streams.shape, dtype),
      jax.ShapeDtypeStruct((*cd.LEAD, d), dtype),
    )
    for found, shape in ((h, (*cd.LEAD, *views, d)), (out, streams.shape)):
      check(
        found.shape == shape and found.dtype == dtype,
        f"branch input or next streams are {found.dtype}{found.shape}, not {dtype.__name__}{shape}",
      )
    wanted = {"read": (module.slots, n), "write": (n, m), "mix": (n, n)}
    wanted["next_read"] = wanted["read"]
    check(
      (coefs.next_read is not None) == module.carries_read,
      "coefs.next_read must be set if and only if carries_read is True",
    )
    for name, shape in wanted.items():
      value = getattr(coefs, name)
      if value is None and name in ("mix", "next_read"):
        continue
      check(value.dtype == jnp.float32, f"{name} is {value.dtype}, not float32")
      check(
        value.shape[-2:] == shape and value.shape[:-2] in ((), (1, 1), cd.LEAD),
        f"{name} is {value.shape}, not [..., {shape[0]}, {shape[1]}]",
      )


def counts(candidate: Candidate) -> None:
  """Checks the number of parameters against the claimed number."""
  module = candidate.module
  claimed = module.facts(cd.WIDTH).num_params
  if claimed is None:
    claimed = module.num_params(cd.WIDTH)
  leaves = dict(hc_params.named_leaves(dict(site_params(candidate))))
  if claimed is None:
    raise NotApplicable("it declares no parameters and claims no number (Facts.num_params)")
  found = sum(leaf.size for leaf in leaves.values())
  check(found == claimed, f"it has {found} parameters; its declaration or facts say {claimed}")


def orientation(candidate: Candidate) -> None:
  """Checks maps, branch input and next streams against the float64 reference.

  The site is run eagerly and compiled. Without a reference, its own maps are applied in float64.
  """
  streams, y = candidate.streams(), output()
  params = site_params(candidate)
  for eager in (True, False):
    h, coefs, out = site(candidate, eager)(params, streams, y)
    want_h, want_coefs, want = _exact(candidate, params, streams, y, coefs)
    words = "eagerly" if eager else "compiled"
    for name, value in want_coefs.items():
      found = getattr(coefs, name)
      found = np.eye(candidate.num_streams) if found is None else found
      shape = np.broadcast_shapes(found.shape, value.shape)
      pair = [np.broadcast_to(a, shape) for a in (found, value)]
      check(distance(*pair) < FORWARD, f"{name} ({words}) differs from the float64 reference")
    check(distance(h, want_h) < FORWARD, f"the branch input ({words}) is not read @ X")
    check(
      distance(out, want) < FORWARD,
      f"the next streams ({words}) are not mix @ X + write @ y, mix[i, j] from j into i",
    )


def derivatives(candidate: Candidate) -> None:
  """Checks gradients against the reference, for a loss on the coefficients and the streams too."""
  lead = (3,)
  streams, y = candidate.streams(lead), output(lead)
  weights = normal("weights", *streams.shape)
  params = site_params(candidate)
  if not candidate.has_reference:
    raise NotApplicable("it has no float64 reference; the check vjp compares with autodiff")
  run = site(candidate, eager=True)
  has_mix = jax.eval_shape(run, params, streams, y)[1].mix is not None

  def loss(inputs):
    params = {k: v for k, v in inputs.items() if k not in ("streams", "y")}
    h, coefs, out = run(params, inputs["streams"], inputs["y"])
    squares = [jnp.sum(jnp.square(c)) for c in jax.tree.leaves(coefs.replace(gates=None))]
    return (
      jnp.sum(out * weights) + sum(squares) + jnp.sum(jnp.sin(h)) + jnp.sum(inputs["streams"] ** 3)
    )

  def exact(inputs):
    params = {k: v for k, v in inputs.items() if k not in ("streams", "y")}
    h, coefs, out = cd.exact_site(candidate, params, inputs["streams"], inputs["y"])
    squares = [np.sum(c**2) for name, c in coefs.items() if name != "mix" or has_mix]
    return np.sum(out * weights) + sum(squares) + np.sum(np.sin(h)) + np.sum(inputs["streams"] ** 3)

  at = {**params, "streams": streams, "y": y}
  gradients = jit(jax.grad(loss))(at)
  gradients = _without_frozen(candidate, gradients)
  at64 = {k: np.asarray(a, np.float64) for k, a in at.items()}
  ways = cd.directions({k: at64[k] for k in gradients}, 3)
  found, want = cd.along(gradients, ways), cd.slopes(exact, at64, ways)
  check(
    distance(found, want) < GRADIENT,
    f"gradients are {distance(found, want):.1e} away from the float64 reference (for a loss that "
    "uses the coefficients, and uses the streams twice)",
  )


def implementations(candidate: Candidate) -> None:
  """Checks hand-written derivatives against autodiff, and that autodiff has a forward mode."""
  streams, y = candidate.streams(), output()
  weights, params = normal("weights", *streams.shape), site_params(candidate)

  def gradients(derivatives):
    module = candidate.module.clone(derivatives=derivatives)

    def loss(params, streams, y):
      h, coefs = module.apply({"params": params}, streams, 1)
      out = module.apply({"params": params}, streams, y, coefs, method="write")
      return jnp.sum(out * weights) + jnp.sum(jnp.sin(h)) + jnp.sum(jnp.square(coefs.write))

    if derivatives == "autodiff":
      jax.eval_shape(lambda *a: jax.jvp(loss, a, a), params, streams, y)  # raises without a jvp
    return jit(jax.grad(loss, argnums=(0, 1, 2)))(params, streams, y)

  custom, plain = gradients("custom"), gradients("autodiff")
  check(
    distance(custom, plain) < GRADIENT,
    f"hand-written derivatives are {distance(custom, plain):.1e} away from those of autodiff",
  )


def bfloat16(candidate: Candidate) -> None:
  """Checks that bf16 streams give float32-exact coefficients, and next streams rounded once."""
  streams = jnp.asarray(candidate.streams(), jnp.bfloat16)
  y = jnp.asarray(output(), jnp.bfloat16)
  params = site_params(candidate)
  _, coefs, out = site(candidate)(params, streams, y)
  rounded = [np.asarray(a, np.float32) for a in (streams, y)]
  _, want_coefs, want = _exact(candidate, params, *rounded, site(candidate)(params, *rounded)[1])
  for name, value in want_coefs.items():
    found = getattr(coefs, name)
    if found is not None:
      found = np.broadcast_to(found, np.broadcast_shapes(found.shape, value.shape))
      check(
        distance(found, np.broadcast_to(value, found.shape)) < FORWARD,
        f"{name} of bf16 streams has the dtype float32, but was rounded to bf16 on the way",
      )
  check(distance(out, want) < BFLOAT16, "bf16 next streams are more than 6e-3 away from float64")


def mix_claims(candidate: Candidate) -> None:
  """Checks the facts about mix at parameters far from their initial values."""
  facts = candidate.module.facts(cd.WIDTH)
  sums = {"rows": (-1, facts.mix_rows_sum_to_one), "columns": (-2, facts.mix_columns_sum_to_one)}
  if facts.mix_is_orthogonal is None and all(claim is None for _, claim in sums.values()):
    raise NotApplicable("it claims nothing about its mix")
  streams, y = candidate.streams(), output()
  coefs = site(candidate)(site_params(candidate, kick=0.3), streams, y)[1]
  mix = np.eye(candidate.num_streams) if coefs.mix is None else np.asarray(coefs.mix, np.float64)
  for name, (axis, claim) in sums.items():
    worst = np.abs(mix.sum(axis) - 1).max()
    check(claim is None or worst <= claim, f"sums of {name} of mix differ from one by {worst:.1e}")
  if facts.mix_is_orthogonal is not None:
    worst = np.abs(mix @ mix.swapaxes(-1, -2) - np.eye(mix.shape[-1])).max()
    check(worst <= facts.mix_is_orthogonal, f"mix @ mix.T differs from the identity by {worst:.1e}")


def _exact(candidate: Candidate, params, streams, y, coefs: Coefs) -> tuple:
  """Returns `exact_site`; without a reference, applies the given coefficients in float64."""
  H, y = np.asarray(streams, np.float64), np.asarray(y, np.float64)
  if candidate.has_reference:
    return cd.exact_site(candidate, params, H, y)
  n = candidate.num_streams
  full = {k: np.asarray(getattr(coefs, k), np.float64) for k in ("read", "write")}
  full["mix"] = np.eye(n) if coefs.mix is None else np.asarray(coefs.mix, np.float64)
  inputs = np.einsum("...vj,...jw->...vw", full["read"], H)
  h = inputs.reshape(
    *np.shape(H)[:-2], *(() if candidate.module.num_views == 1 else (-1,)), y.shape[-1]
  )
  parts = y.reshape(*y.shape[:-1], candidate.module.fractions, -1)
  out = np.einsum("...iv,...vw->...iw", full["write"], parts)
  return h, full, out + np.einsum("...ij,...jw->...iw", full["mix"], H)


def _without_frozen(candidate: Candidate, gradients: dict) -> dict:
  """Returns gradients without those of parameters that are frozen on purpose."""
  frozen = candidate.module.frozen()
  return {k: v for k, v in gradients.items() if k not in frozen}
