"""One mesh, and tables from the logical axis names of `hc_jax.axes` to its axes.

The mesh has three axes: `data` (copies of the parameters), `fsdp` (parameters and optimizer state
split, gathered layer by layer) and `tensor` (heads, hidden units and vocabulary split). The batch
is split over `data` and `fsdp` together. Streams are split over batch and length, never over n or
over their width. `act_embed` has no rule, because XLA's partitioner has returned wrong numbers with
the width of activations split.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from hc_jax import axes
from hc_jax.errors import UserError
from hc_jax.fields import check_fields, field

AXES = ("data", "fsdp", "tensor")
Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

_DP: Rules = (("act_batch", ("data", "fsdp")),)
_FSDP: Rules = (*_DP, ("embed", "fsdp"))
# Order is priority, because an array can use a mesh axis once: inside attention and the MLP, heads
# and hidden units use `tensor`; between blocks, where they are absent, the length does.
_FSDP_TP: Rules = (
  *_FSDP,
  *((name, "tensor") for name in ("heads", "kv_heads", "mlp", "vocab")),
  *((name, "tensor") for name in ("act_heads", "act_kv", "act_mlp", "act_vocab")),
  ("act_length", "tensor"),
)
# Axes whose names have no rule are replicated.
RULES: dict[str, Rules] = {"dp": _DP, "fsdp": _FSDP, "fsdp_tp": _FSDP_TP}
# The mesh axes that each preset uses.
_USES = {"dp": ("data",), "fsdp": ("data", "fsdp"), "fsdp_tp": AXES}


def _size(size: int) -> str | None:
  """Returns a problem of the size of an axis, or None."""
  return None if size == -1 or size >= 1 else "must be at least 1, or -1 for the rest"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSettings:
  """Settings of a mesh: the keys of the group `mesh`.

  Attributes:
    preset: rules of sharding: "dp" splits the batch, "fsdp" parameters too, "fsdp_tp" heads and
      hidden units too.
    data: number of copies of the parameters. The batch is split over data * fsdp devices.
    fsdp: number of devices over which parameters and optimizer state are split.
    tensor: number of devices over which heads, hidden units and vocabulary are split.

  One of the three sizes may be -1: the number of devices divided by the other two.

  Raises:
    UserError: if the preset is unknown, or a size is neither -1 nor a whole number from 1.
      `make_mesh` refuses sizes that do not fit the devices, the preset or each other.
  """

  preset: str = field("dp", choices=tuple(RULES))
  data: int = field(-1, check=_size)
  fsdp: int = field(1, check=_size)
  tensor: int = field(1, check=_size)

  def __post_init__(self) -> None:
    check_fields(self)


def make_mesh(
  preset: str = "dp",
  *,
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """The mesh `(data, fsdp, tensor)` over all devices; one size may be -1, "the rest".

  Its axes are of `AxisType.Auto`: jax's default, Explicit, turns constraints into assertions.

  Raises:
    UserError: sizes that do not multiply to the number of devices, or an axis that `preset`
      ignores.
  """
  if preset not in RULES:
    raise UserError(f"`preset={preset!r}` is unknown; choose one of {', '.join(RULES)}")
  devices = jax.devices() if devices is None else list(devices)
  sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
  for axis, size in sizes.items():
    if size != -1 and size < 1:
      raise UserError(f"`{axis}={size}`: a size is at least 1, or -1 for the rest")
  free = [axis for axis, size in sizes.items() if size == -1]
  if len(free) > 1:
    raise UserError(f"`{free[0]}` and `{free[1]}` are both -1; only one can be the rest")
  known = math.prod(size for size in sizes.values() if size != -1)
  product = " * ".join(f"{axis} {size}" for axis, size in sizes.items())
  if free and len(devices) % known == 0:
    sizes[free[0]] = len(devices) // known
  elif known != len(devices):
    raise UserError(
      f"the mesh ({product}) does not fit {len(devices)} devices: "
      + (f"{len(devices)} / {known} is no integer" if free else f"it needs {known}")
      + "; change `data`, `fsdp` or `tensor` (-1 takes the rest)"
    )
  _check_used(preset, sizes)
  return Mesh(
    np.array(devices).reshape(tuple(sizes.values())), AXES, axis_types=(AxisType.Auto,) * 3
  )


def _check_used(preset: str, sizes: dict[str, int]) -> None:
  """Raises UserError if the preset would silently leave something unsplit on this mesh."""
  for axis, size in sizes.items():
    if size > 1 and axis not in _USES[preset]:
      able = [name for name in RULES if axis in _USES[name]]
      raise UserError(
        f"`{axis}={size}` does nothing under `preset={preset}`; "
        f"set it to 1, or use {' or '.join(f'`preset={name}`' for name in able)}"
      )
  split = {"fsdp": "fsdp", "fsdp_tp": "tensor"}.get(preset)
  if split and sizes[split] == 1 and math.prod(sizes.values()) > 1:
    raise UserError(
      f"`preset={preset}` splits nothing over {split} when `{split}=1`; "
      f"set `{split}` (and `data`, whose -1 takes the rest), or use another preset"
    )


def check_batch(
  mesh: Mesh | AbstractMesh, preset: str, *, batch_size: int, accumulation: int, length: int
) -> None:
  """Raises UserError, with the arithmetic, if batches do not divide over the mesh.

  Args:
    mesh: mesh with the axes data, fsdp and tensor, as `make_mesh` returns it.
    preset: preset of the mesh; it is not checked.
    batch_size: number of sequences in a step.
    accumulation: number of micro-steps in a step.
    length: number of tokens in a sequence.

  Raises:
    UserError: if `batch_size / accumulation` is not a whole multiple of data * fsdp, or, with the
      preset "fsdp_tp", if tensor does not divide the length.
  """
  rows, shards = batch_size / accumulation, mesh.shape["data"] * mesh.shape["fsdp"]
  if rows % shards:
    raise UserError(
      f"{rows:g} sequences a micro-step (`batch_size` {batch_size} / `accumulation` "
      f"{accumulation}) do not divide over {shards} devices (`data` {mesh.shape['data']} * "
      f"`fsdp` {mesh.shape['fsdp']}{_of_processes(mesh)}): {rows:g} / {shards} = "
      f"{rows / shards:g}; "
      f"use a multiple of {shards * accumulation} for `batch_size`"
    )
  if preset == "fsdp_tp" and length % mesh.shape["tensor"]:
    raise UserError(
      f"`length={length}` does not divide over `tensor={mesh.shape['tensor']}`: "
      f"{length} / {mesh.shape['tensor']} = {length / mesh.shape['tensor']:g}"
    )


def _of_processes(mesh: Mesh | AbstractMesh) -> str:
  if isinstance(mesh, AbstractMesh):
    return ""
  count = len({device.process_index for device in mesh.devices.flat})
  return f", of {count} processes" if count > 1 else ""


def process_block(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
  """Returns (i, count): a process holds block i of `count` equal blocks of a batch's rows.

  Several processes hold the same block if `tensor` spans several processes.

  Args:
    mesh: a mesh of `make_mesh`.
    process: number of the process; this process by default.

  Raises:
    UserError: if the rows of the process are not one block.
  """
  process = jax.process_index() if process is None else process
  shards = mesh.devices.reshape(-1, mesh.shape["tensor"])
  mine = [i for i, row in enumerate(shards) if any(d.process_index == process for d in row)]
  size, held = len(mine), sum(d.process_index == process for d in mesh.devices.flat)
  if len(shards) % size or mine[0] % size or mine != list(range(mine[0], mine[0] + size)):
    raise UserError(
      f"`tensor={mesh.shape['tensor']}` does not fit {held} devices a process: "
      f"process {process} would hold the parts {mine} of {len(shards)} of a batch; choose a "
      "`tensor` that divides the devices of a process, or is a multiple of them"
    )
  return mine[0] // size, len(shards) // size


@contextlib.contextmanager
def use_mesh(mesh: Mesh, preset: str = "dp") -> Iterator[Mesh]:
  """Enters a context in which constraints by name use this mesh and the rules of `preset`.

  With the deprecated `with mesh:` all constraints would silently have no effect.
  """
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES[preset]):
    yield mesh


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a value that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of `[B, ...]` over its first axis."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def param_shardings(boxed: Any, mesh: Mesh, preset: str = "dp") -> Any:
  """Returns shardings of abstract parameters with logical names (`nn.LogicallyPartitioned`).

  Args:
    boxed: parameters as from `jax.eval_shape(model.init, ...)["params"]`.
    mesh: a mesh of `make_mesh`.
    preset: name of the sharding rules.

  Returns:
    A tree of `NamedSharding` with the structure of the unboxed parameters. A vocabulary that does
    not divide (257 for bytes) is replicated along that axis.

  Raises:
    UserError: if another axis does not divide over its mesh axis.
  """
  logical = nn.get_partition_spec(boxed)
  wanted = nn.logical_to_mesh_sharding(logical, mesh, list(RULES[preset]))

  def fit(path, leaf: Any, names: PartitionSpec, sharding: NamedSharding) -> NamedSharding:
    spec = list(sharding.spec)
    for i, split in enumerate(spec):
      if split is None:
        continue
      parts = math.prod(mesh.shape[a] for a in ((split,) if isinstance(split, str) else split))
      if leaf.shape[i] % parts == 0:
        continue
      if names[i] != "vocab":
        raise UserError(
          f"parameter {jax.tree_util.keystr(path, simple=True, separator='/')} {leaf.shape}: its "
          f"axis {names[i]!r} of {leaf.shape[i]} does not divide over `{split}={parts}`: "
          f"{leaf.shape[i]} / {parts} = {leaf.shape[i] / parts:g}; choose one that divides it"
        )
      spec[i] = None
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree_util.tree_map_with_path(fit, axes.unboxed(boxed), logical, wanted)
