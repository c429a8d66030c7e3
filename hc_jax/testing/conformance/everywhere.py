"""Checks that a connection works wherever JAX does: devices, x64, no tokens, more derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hc_jax import ops
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.conformance import candidate as cd
from hc_jax.testing.conformance.candidate import Candidate, site_params
from hc_jax.testing.harness import NotApplicable, check
from hc_jax.testing.traps.subject import distance

PyTree = Any
LEAD = (4, 3)  # token axes; the first is split over two devices
GRADIENT = 1e-5
REMEDY = "give each parameter and constant the dtype jnp.float32"


def shard_map(candidate: Candidate) -> None:
  """Checks gradients under `jax.shard_map` with its default options and replicated parameters."""
  mesh = _mesh(AxisType.Auto)
  whole, split = PartitionSpec(), PartitionSpec("data")
  inputs, gradients = _inputs(candidate), _gradients(candidate)
  mapped = jax.shard_map(
    gradients, mesh=mesh, in_specs=(whole, split, split), out_specs=(whole, split, split)
  )
  _agree(jit(mapped)(*inputs), jit(gradients)(*inputs), "under jax.shard_map")


def pmap(candidate: Candidate) -> None:
  """Checks gradients under `jax.pmap`, with replicated parameters and summed gradients."""
  if len(jax.devices()) < 2:
    raise NotApplicable("it needs two devices")
  params, *rest = _inputs(candidate)
  gradients = _gradients(candidate)

  def step(params, *rest):
    ours, *others = gradients(params, *rest)
    return jax.lax.psum(ours, "devices"), others

  halves = [np.stack(np.split(x, 2)) for x in rest]
  run = jax.pmap(step, axis_name="devices", in_axes=(None, 0, 0), devices=jax.devices()[:2])
  ours, others = jax.device_get(run(params, *halves))
  found = (jax.tree.map(lambda g: g[1], ours), *(np.concatenate(x) for x in others))
  _agree(found, jit(gradients)(params, *rest), "under jax.pmap")


def explicit_mesh(candidate: Candidate) -> None:
  """Checks gradients on a mesh with explicit axes, with a split batch."""
  mesh = _mesh(AxisType.Explicit)
  inputs, gradients = _inputs(candidate), _gradients(candidate)
  want = jit(gradients)(*inputs)
  with jax.set_mesh(mesh):
    params, *rest = inputs
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    rest = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))) for x in rest]
    found = jit(gradients)(params, *rest)
  _agree(found, want, "on a mesh with explicit axes")


def x64(candidate: Candidate) -> None:
  """Checks that parameters and maps are float32 under `jax_enable_x64`, for any input dtype."""
  with jax.enable_x64(True):
    for dtype in (jnp.float32, jnp.float64):
      params, streams, y = _inputs(candidate)
      streams, y = jnp.asarray(streams, dtype), jnp.asarray(y, dtype)
      made = jax.eval_shape(candidate.module.init, jax.random.key(0), streams, 1)
      kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(made.get("params", {}))}
      check(kinds <= {"float32"}, f"parameters are {sorted(kinds)} under jax_enable_x64: {REMEDY}")
      params = jax.tree.map(lambda a: jnp.asarray(a, dtype), params)  # noqa: B023
      (h, coefs), _ = jax.eval_shape(_site(candidate), params, streams, y)
      check(h.dtype == dtype, f"{dtype.dtype} streams give a branch input of {h.dtype}")
      maps = {str(leaf.dtype) for leaf in jax.tree.leaves(coefs.replace(slot=None))}
      check(maps == {"float32"}, f"maps are {sorted(maps)} under jax_enable_x64: {REMEDY}")
      jax.eval_shape(_gradients(candidate), params, streams, y)


def empty(candidate: Candidate) -> None:
  """Checks that an input of zero tokens gives an output of zero tokens."""
  params, streams, y = _inputs(candidate)
  (h, _), out = jax.eval_shape(_site(candidate), params, streams[:0], y[:0])
  check(h.shape == (0, *h.shape[1:]) and out.shape == streams[:0].shape, f"{h.shape}, {out.shape}")
  jax.eval_shape(_gradients(candidate), params, streams[:0], y[:0])


def whole_index(candidate: Candidate) -> None:
  """Checks that an index which is not a whole number is refused."""
  params, streams, _ = _inputs(candidate)
  for index in (0.5, np.float32(1), np.zeros(2, np.int32)):
    try:
      candidate.module.apply({"params": params}, streams, index)
    except TypeError as error:
      check("index" in str(error), f"index={index!r} is refused without naming it: {error}")
    else:
      check(False, f"index={index!r} is accepted; raise TypeError unless it is a whole number")


def second_derivatives(candidate: Candidate) -> None:
  """Checks derivatives of gradients against those of autodiff."""
  inputs = _inputs(candidate)

  def squares(derivatives: str) -> Callable:
    gradients = _gradients(candidate, derivatives)
    return lambda *args: sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients(*args)))

  found, want = (
    jit(jax.grad(squares(derivatives), argnums=(0, 1)))(*inputs) for derivatives in ops.DERIVATIVES
  )
  _agree(found, want, "for derivatives of gradients", 1e-4)


def forward_mode(candidate: Candidate) -> None:
  """Checks that forward mode works with derivatives="autodiff", and is refused with that hint."""
  inputs = _inputs(candidate)

  def push(derivatives: str) -> Callable:
    return lambda *args: jax.jvp(_site(candidate, derivatives), args, args)

  jax.jit(push("autodiff")).lower(*inputs)  # raises if a derivative has no forward mode
  try:
    push("custom")(*inputs)  # eagerly, because under jit JAX would raise an error of its own
  except TypeError as error:
    check(
      'derivatives="autodiff"' in str(error), f"forward mode is refused without a remedy: {error}"
    )


def is_a_value(candidate: Candidate) -> None:
  """Checks the declared form: `finish` holds no arrays, and `boundary` equals its parts."""
  module = candidate.module
  if not module.is_declared:
    raise NotApplicable("it has the free form, coefs(streams, index)")
  check(
    module.finisher() == module.clone().finisher()
    and hash(module.finisher()) == hash(module.clone().finisher()),
    "two finishers with equal fields are not equal, so that every call would be traced again",
  )
  params, streams, y = _inputs(candidate)
  generator = module.generate(params, 1)
  shapes = jax.eval_shape(ops.coefs, streams, generator)
  coefs = jax.tree.map(lambda a: normal(str(a.shape), *a.shape), shapes.replace(slot=None))
  if shapes.slot is not None:
    coefs = coefs.replace(slot=jnp.int32(module.num_streams // module.fractions - 1))
  if generator.kernel is not None:
    logits = np.zeros((*LEAD, *streams.shape[-2:-1], generator.kernel.shape[-1]), np.float32)
    if generator.norm_over == "group":
      logits = logits[..., :: generator.kernel.shape[0], :]
    elif generator.kernel.ndim == 3:
      logits = logits[..., 0, :]
    consts = jax.make_jaxpr(generator.finish)(logits, generator.small).consts
    check(not consts, f"finish captures {len(consts)} arrays, which no kernel can hold")

  def apart(streams, y, coefs, generator):
    streams = ops.write(streams, y, coefs)
    made = ops.coefs(streams, generator)
    return streams, ops.read(streams, made), made

  both = jit(lambda *args: (ops.boundary(*args), apart(*args)))
  found, want = both(streams, y, coefs, generator)
  same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), found, want)
  check(all(jax.tree.leaves(same)), "ops.boundary is not bitwise equal to write, coefs and read")


def _mesh(kind: AxisType) -> jax.sharding.Mesh:
  if len(jax.devices()) < 2:
    raise NotApplicable("it needs two devices")
  return jax.make_mesh((2,), ("data",), (kind,), devices=jax.devices()[:2])


def _inputs(candidate: Candidate) -> tuple[PyTree, np.ndarray, np.ndarray]:
  streams = candidate.streams(LEAD)
  return dict(site_params(candidate)), streams, normal("output", *LEAD, cd.WIDTH)


def _site(candidate: Candidate, derivatives: str = "custom") -> Callable:
  module = candidate.module.clone(derivatives=derivatives)

  def run(params, streams, y):
    h, coefs = module.apply({"params": params}, streams, 1)
    return (h, coefs), module.apply({"params": params}, streams, y, coefs, method="write")

  return run


def _gradients(candidate: Candidate, derivatives: str = "custom") -> Callable:
  """Returns the gradient of a function of both outputs of a site, for all its inputs."""
  site = _site(candidate, derivatives)

  def loss(*args):
    (h, _), out = site(*args)
    return jnp.sum(jnp.sin(h)) + jnp.sum(jnp.sin(out))

  def gradients(params, streams, y):
    return jax.grad(loss, argnums=(0, 1, 2))(params, streams, y)

  return gradients


def _agree(found: PyTree, want: PyTree, where: str, limit: float = GRADIENT) -> None:
  apart = distance(jax.device_get(found), jax.device_get(want))
  check(apart < limit, f"gradients {where} differ by {apart:.1e} (relative)")
