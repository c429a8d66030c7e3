"""Forms of one function for several platforms, and the types of arrays on a mesh.

Under `jax.shard_map` an array's type contains the mesh axes over which it differs between devices.
On a mesh with explicit axes it contains the sharding. Forms for platforms and hand-written
derivatives must return exactly the right types; the functions here see to it.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def by_platform(
  *args: Any, default: Callable, gpu: Callable | None = None, tpu: Callable | None = None
) -> Any:
  """Returns `default(*args)`, or on a GPU or TPU the result of the form for that platform.

  The form is chosen at lowering, by the target platform. A program compiled here for another device
  therefore gets that device's form.
  """
  args = alike(*args)
  forms = {"cuda": gpu, "rocm": gpu, "tpu": tpu}
  return jax.lax.platform_dependent(
    *args,
    default=_typed(default, args),
    **{name: _typed(form, args) for name, form in forms.items() if form is not None},
  )


def _typed(form: Callable, inputs: tuple) -> Callable:
  """Returns the form with results that vary over all mesh axes over which its inputs vary."""
  axes = varying(inputs)
  return (lambda *args: _cast(form(*args), axes)) if axes else form


def alike(*args: Any) -> tuple:
  """Returns the arrays, cast so that all vary over the same mesh axes of `jax.shard_map`.

  A hand-written derivative must return the types of its arguments, and under `jax.shard_map`
  replicated weights meet a split batch. The derivative of the cast sums over the axes that the cast
  adds. Outside of `jax.shard_map` nothing changes.
  """
  axes = varying(args)
  return _cast(args, axes) if axes else args


def varying(tree: Any) -> frozenset[str]:
  """Returns the mesh axes of `jax.shard_map` over which any array of the tree varies."""
  return frozenset().union(*(_varying(leaf) for leaf in jax.tree.leaves(tree)))


def _varying(x: jax.Array) -> frozenset[str]:
  return jax.typeof(x).manual_axis_type.varying


def _cast(tree: Any, axes: frozenset[str]) -> Any:
  def cast(x: jax.Array) -> jax.Array:
    missing = tuple(sorted(axes - _varying(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x

  return jax.tree.map(cast, tree)


def explicit_spec(x: jax.Array) -> tuple | None:
  """Returns the partition of each axis of x if its mesh has explicit axes, and None otherwise."""
  sharding = jax.typeof(x).sharding
  if AxisType.Explicit not in sharding.mesh.axis_types:
    return None
  return (*sharding.spec, *(None,) * (x.ndim - len(sharding.spec)))


def explicit_sharding(x: jax.Array, spec: tuple | None) -> NamedSharding | None:
  """Returns the sharding `spec` on the mesh of x. For None it returns None: JAX then decides."""
  if spec is None:
    return None
  return NamedSharding(jax.typeof(x).sharding.mesh, PartitionSpec(*spec))


def stored(x: Any) -> Any:
  """Forces XLA to materialise x, an array or a tree of arrays, once, in its own dtype.

  Otherwise XLA may keep a bfloat16 sum as float32 (twice the bytes), or compute it again in each
  consumer.
  """
  return jax.lax.optimization_barrier(x)
