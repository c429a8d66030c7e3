"""Traps that a single connection can show, some by comparison with the float64 reference.

A trap is a function of a `Subject`. It raises AssertionError with one line that names the broken
convention, or `NotApplicable`. `hc_jax.testing.traps.table` lists all traps.
"""

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import params as hc_params
from hc_jax.coefs import Coefs
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.harness import FORWARD, check
from hc_jax.testing.reference import hyper as reference
from hc_jax.testing.traps.subject import (
  STREAMS,
  TOKENS,
  WIDTH,
  Subject,
  distance,
  forward,
  initial,
  network,
  site,
  site_params,
  site_streams,
)

Y = normal("y", 2, 5, WIDTH)


def mix_is_used(subject: Subject) -> None:
  """Checks T1: a mix that swaps two streams swaps them.

  A swap equals its transpose, so that the mistake of T2 passes here.
  """
  swap = np.float32([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
  streams, want = site_streams(), np.einsum("ij,...jw->...iw", swap, site_streams())
  coefs = Coefs(read=np.ones((1, 3), np.float32), write=np.zeros((3, 1), np.float32), mix=swap)
  check(
    np.array_equal(jit(subject.write)(streams, Y, coefs), want),
    "mix is not applied: write(streams, y, coefs) with a mix that swaps streams 0 and 1, and a "
    "write of zero, does not swap them",
  )
  for dynamic in (False, True):
    params = {**site_params(dynamic=False), "static_mix": swap, "static_write": 0 * coefs.write}
    if dynamic:
      params["dynamic_kernel"] = np.zeros((WIDTH, STREAMS + 2), np.float32)
      params["dynamic_scale"] = np.ones(2, np.float32)
    check(
      np.array_equal(site(subject, dynamic=dynamic)(params, streams, Y)[2], want),
      f"mix is computed and never used (dynamic={dynamic}): static_mix swaps streams 0 and 1, but "
      "the next streams are not swapped",
    )


def mix_is_oriented(subject: Subject) -> None:
  """Checks T2: mix[i, j] carries stream j into i, and its dynamic part depends on stream j."""
  streams, weights = site_streams(), normal("mix", STREAMS, STREAMS)
  coefs = Coefs(read=normal("r", 1, STREAMS), write=normal("w", STREAMS, 1), mix=weights)
  want = np.einsum("ij,...jw->...iw", weights.astype(np.float64), streams)
  want += np.einsum("ik,...kw->...iw", coefs.write.astype(np.float64), Y[..., None, :])
  check(
    distance(jit(subject.write)(streams, Y, coefs), want) < FORWARD,
    "mix is transposed in write: mix[i, j] must carry stream j INTO stream i (A_r^T H)",
  )
  found, want = _site_and_reference(subject, streams, dynamic=False)
  check(
    distance(found, want) < FORWARD,
    "static_mix, read or write is transposed: the next streams are not B^T y + A_r^T H (Eq. 2)",
  )
  run, params = site(subject), site_params()
  before = np.asarray(run(params, streams, Y)[1].mix)
  moved = streams.copy()
  moved[..., 1, :] = normal("moved", 2, 5, WIDTH)
  changed = np.abs(np.asarray(run(params, moved, Y)[1].mix) - before).max(axis=(0, 1)) > 1e-6
  check(
    np.array_equal(changed, np.arange(STREAMS)[None, :].repeat(STREAMS, 0) == 1),
    "the dynamic mix is transposed: a change of stream 1 must change column 1 of mix (the weights "
    "of stream 1 in all streams) and nothing else",
  )


def starts_as_equation_14(subject: Subject) -> None:
  """Checks T8: at init, read is e_k, write is all ones and mix is the identity (Eq. 14)."""
  for fields in ({}, {"dynamic": False}):
    params = initial(subject, **fields)
    for k, coefs in enumerate(forward(subject, **fields)(params).coefs):
      want = reference.initial(STREAMS, k)
      pairs = {"read": want.A_m.T, "write": want.B.T, "mix": want.A_r.T}
      for name, value in pairs.items():
        found = getattr(coefs, name)
        check(
          found is not None and np.abs(np.asarray(found) - value).max() < 1e-6,
          f"{name} of site {k} does not start as in Eq. 14 ({fields or 'dynamic'}): a map after a "
          "sigmoid or softmax needs other initial values",
        )


def norm_is_the_one_asked_for(subject: Subject) -> None:
  """Checks T10: the norm's kind, parameters and eps, against the float64 reference."""
  for norm in ("layernorm", "rmsnorm"):
    for with_params, eps in ((False, 0.3), (True, 1e-5)):
      found, want = _coefs_and_reference(subject, norm=norm, norm_params=with_params, norm_eps=eps)
      check(
        distance(found, want) < FORWARD,
        f"the norm before the dynamic projection is not norm={norm!r} with norm_params="
        f"{with_params}, norm_eps={eps}",
      )


def tanh_is_what_is_asked_for(subject: Subject) -> None:
  """Checks T11: coefficients with and without tanh, against the float64 reference."""
  for tanh in (True, False):
    found, want = _coefs_and_reference(subject, tanh=tanh)
    check(
      distance(found, want) < FORWARD,
      f"tanh={tanh} is ignored: the dynamic part must be scale * "
      f"{'tanh(norm(X) W)' if tanh else 'norm(X) W'}",
    )


def coefs_are_float32(subject: Subject) -> None:
  """Checks T13: bf16 streams have coefficients with float32 dtype and float32 precision."""
  streams = jnp.asarray(site_streams(), jnp.bfloat16)
  _, coefs, out = site(subject)(site_params(), streams, jnp.asarray(Y, jnp.bfloat16))
  dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(coefs)}
  check(dtypes == {"float32"}, f"coefficients of bf16 streams are {dtypes}, not float32")
  check(out.dtype == jnp.bfloat16, f"write returns bf16 streams as {out.dtype}")
  want = reference.from_params(site_params())(np.asarray(streams, np.float64))
  check(
    distance(coefs, _as_coefs(want)) < FORWARD,
    "coefficients of bf16 streams have the dtype float32, but were rounded to bf16 on the way",
  )


def init_is_finite_and_stable(subject: Subject) -> None:
  """Checks T14: every initial value is finite, and the same for the same key."""
  for path, leaf in hc_params.named_leaves(initial(subject)):
    check(
      bool(np.all(np.isfinite(leaf))), f"{path} is initialised with numbers that are not finite"
    )
  connection = subject.connection(num_streams=STREAMS)
  args = (connection.init, jax.random.key(1), site_streams(), 0)
  first, second = (_traced_anew(*args) for _ in "12")
  for path, leaf in first.items():
    check(
      np.array_equal(leaf, second[path]),
      f"{path} is initialised differently by two calls with the same key",
    )


def _traced_anew(init, *args) -> dict:
  return dict(hc_params.named_leaves(jit(lambda *args: init(*args))(*args)["params"]))


def options_are_heard(subject: Subject) -> None:
  """Checks T17: every option of a connection changes its result, and of a model its program."""
  plain = site(subject)(site_params(), site_streams(), Y)
  for fields in ({"tanh": False}, {"norm": "rmsnorm"}, {"norm_eps": 0.3}):
    other = site(subject, **fields)(site_params(), site_streams(), Y)
    check(distance(other, plain) > 1e-4, f"the option {_show(fields)} is ignored")
  for fields, name, count in (
    ({"dynamic": False}, "dynamic_kernel", 3),
    ({"norm_params": True}, "norm_scale", 7),
    ({"num_streams": 1, "dynamic": False}, "static_mix", 3),
  ):
    connection = subject.connection(**{"num_streams": STREAMS, **fields})
    streams = site_streams(connection.num_streams)
    found = jax.eval_shape(connection.init, jax.random.key(0), streams, 0)["params"]
    heard = len(found) == count and (name in found) == (name != "dynamic_kernel")
    check(heard, f"the option {_show(fields)} is ignored: parameters are {', '.join(found)}")
  scale = {"num_streams": STREAMS, "dynamic_scale_init": 0.5}
  found = subject.connection(**scale).init(jax.random.key(0), site_streams(), 0)["params"]
  found = dict(hc_params.named_leaves(found))["dynamic_scale"]
  check(np.array_equal(found, [0.5, 0.5]), "the option dynamic_scale_init=0.5 is ignored")
  for fields, names in (
    ({"train_read_mix": False}, ("static_read", "static_mix")),
    ({"train_write": False}, ("static_write",)),
  ):
    grads = _site_gradients(subject, **fields)
    dead = [name for name in site_params() if not np.any(grads[name])]
    check(
      dead == list(names), f"the option {_show(fields)} is ignored: without gradient are {dead}"
    )
  try:
    site(subject, implementation="nonsense")(site_params(), site_streams(), Y)
  except ValueError:
    pass
  else:
    check(False, "the option implementation='nonsense' is ignored instead of refused")
  for scan in (True, False):
    plain = _program(subject, scan=scan)
    check(
      plain == _program(subject, scan=scan), "one model gives two programs, so that T17 cannot tell"
    )
    for fields in CONNECTION_OPTIONS + (() if scan else MODEL_OPTIONS):
      check(
        _program(subject, scan=scan, **fields) != plain,
        f"the model's option {_show(fields)} is ignored (scan={scan})",
      )


CONNECTION_OPTIONS = ({"dynamic": False}, {"derivatives": "autodiff"}, {"norm": "rmsnorm"})
MODEL_OPTIONS = (
  {"norm_position": "post"},
  {"positions": "learned"},
  {"qk_norm": True},
  {"activation": "swiglu"},
  {"causal": False},
  {"tie_embeddings": False},
  {"stream_dtype": jnp.bfloat16},
  {"output_init_scale": 0.5},
  {"remat": "branches"},
)


def _site_gradients(subject: Subject, **fields) -> dict:
  """Returns the gradients of a loss on the next streams of one site, by parameter."""
  connection = subject.connection(num_streams=STREAMS, **fields)

  def loss(params):
    _, coefs = connection.apply({"params": params}, site_streams(), 0)
    out = connection.apply({"params": params}, site_streams(), Y, coefs, method="write")
    h, _ = connection.apply({"params": params}, out, 0)
    return jnp.sum(jnp.sin(h))

  return jit(jax.grad(loss))(site_params())


def _program(subject: Subject, **fields) -> int:
  """Returns a hash of a model's program, including its initialisation; nothing compiles."""
  model = network(subject, num_layers=1, **fields)
  jaxpr = jax.make_jaxpr(model.init_with_output)(jax.random.key(0), TOKENS)
  return hash(_without_addresses(str(jaxpr)))


def _without_addresses(text: str) -> str:
  return " ".join(word for word in text.split() if "0x" not in word)


def _show(fields: dict) -> str:
  return ", ".join(f"{name}={value!r}" for name, value in fields.items())


def _coefs_and_reference(subject: Subject, **fields) -> tuple[Coefs, Coefs]:
  """Returns the coefficients of one site, by the subject and by the reference."""
  norm = fields.get("norm", "layernorm")
  params = site_params(norm=norm if fields.get("norm_params") else "")
  streams = site_streams()
  eps = fields.get("norm_eps", 1e-5)
  options = {"tanh": fields.get("tanh", True), "norm": norm, "eps": eps}
  want = reference.from_params(params, **options)(streams.astype(np.float64))
  return site(subject, **fields)(params, streams, Y)[1], _as_coefs(want)


def _site_and_reference(subject: Subject, streams: np.ndarray, **fields) -> tuple[list, list]:
  """Returns branch input and next streams of one site, by the subject and by the reference."""
  params = site_params(dynamic=fields.get("dynamic", True))
  H = streams.astype(np.float64)
  m = reference.from_params(params)(H)
  h, _, out = site(subject, **fields)(params, streams, Y)
  want = np.einsum("...ij,...id->...jd", m.A_m, H)[..., 0, :]
  return [h, out], [want, reference.sublayer(H, m, lambda h: Y)]


def _as_coefs(m: reference.Matrices) -> Coefs:
  return Coefs(read=m.A_m.swapaxes(-1, -2), write=m.B.swapaxes(-1, -2), mix=m.A_r.swapaxes(-1, -2))
