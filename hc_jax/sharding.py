"""One mesh, and tables from the logical axis names of `hc_jax.axes` to its axes.

The mesh has three axes: `data` (copies of the parameters), `fsdp` (parameters and optimizer state
split, gathered layer by layer) and `tensor` (heads, hidden units and vocabulary split). The batch
is split over `data` and `fsdp` together. Streams are split over batch and length, never over n, and
never over their width: `act_embed` has no rule on purpose (XLA's partitioner has returned wrong
numbers with the width of activations split).
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
# Order is priority, since an array uses a mesh axis once: inside attention and the MLP the heads
# and hidden units hold `tensor`; between blocks, where nothing else asks for it, the length does.
_FSDP_TP: Rules = (
  *_FSDP,
  *((name, "tensor") for name in ("heads", "kv_heads", "mlp", "vocab")),
  *((name, "tensor") for name in ("act_heads", "act_kv", "act_mlp", "act_vocab")),
  ("act_length", "tensor"),
)
# A name that no rule mentions is replicated.
RULES: dict[str, Rules] = {"dp": _DP, "fsdp": _FSDP, "fsdp_tp": _FSDP_TP}
# The mesh axes that a preset splits something over.
_USES = {"dp": ("data",), "fsdp": ("data", "fsdp"), "fsdp_tp": AXES}


def _size(size: int) -> str | None:
  """Returns what is wrong with the size of an axis."""
  return None if size == -1 or size >= 1 else "must be at least 1, or -1 for the rest"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSettings:
  """Settings of a mesh: the keys of the group `mesh`.

  Attributes:
    preset: what is split: "dp" the batch, "fsdp" parameters too, "fsdp_tp" heads and hidden units
      too.
    data: devices along this axis, which hold copies of the parameters; -1 is the rest.
    fsdp: devices that parameters and optimizer state are split over; -1 is the rest.
    tensor: devices that heads, hidden units and vocabulary are split over; -1 is the rest.

  Raises:
    UserError: a value that cannot mean anything.
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
  """Refuses a mesh on which the preset would silently do nothing, or less than it says."""
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
  """Refuses, with the arithmetic, batches that do not divide over the mesh.

  Raises:
    UserError: batch_size does not divide into micro-batches and these over data * fsdp, or length
      over tensor.
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
  """Which rows of a batch a process holds: (i, count), the i-th of `count` blocks of equal size.

  Several processes hold the same block where `tensor` reaches over processes.

  Args:
    mesh: of `make_mesh`.
    process: its number; this one by default.

  Raises:
    UserError: its rows are no such block.
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
  """Makes `mesh` and the rules of `preset` those that constraints by name refer to.

  The deprecated `with mesh:` would leave every constraint silently without effect.
  """
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES[preset]):
    yield mesh


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of a value that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of `[B, ...]` over its first axis."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def param_shardings(boxed: Any, mesh: Mesh, preset: str = "dp") -> Any:
  """Shardings of abstract parameters that carry logical axis names (`nn.LogicallyPartitioned`).

  Args:
    boxed: what `jax.eval_shape(model.init, ...)["params"]` gives.

  Returns:
    A tree of `NamedSharding` with the structure of the unboxed parameters. A vocabulary that does
    not divide (257 for bytes) is replicated along that axis.

  Raises:
    UserError: another axis does not divide over its mesh axis.
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
