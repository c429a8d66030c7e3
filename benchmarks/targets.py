"""Compilation for accelerators that this machine does not have."""

import functools
import os
import pathlib
from typing import Any

TARGETS = ("h100", "v5e", "cpu")

# The description of an NVIDIA H100 SXM5 for XLA's ahead-of-time compiler.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84978434048
  l2_cache_size: 52428800
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  threads_per_warp: 32
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class TargetError(Exception):
  """An error: this machine cannot compile for a target."""


def prepare() -> None:
  """Sets environment variables for JAX; call it before JAX is imported."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  cuda = os.environ.get("CUDA_HOME", "/usr/local/cuda")
  flags = os.environ.get("XLA_FLAGS", "")
  if pathlib.Path(cuda).is_dir() and "xla_gpu_cuda_data_dir" not in flags:
    flags += f" --xla_gpu_cuda_data_dir={cuda}"
  # No autotuning, because it would run candidates on the missing device.
  os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0".strip()


@functools.cache
def sharding(target: str) -> Any:
  """Returns one device of the target, as a sharding for `jax.ShapeDtypeStruct`.

  Raises:
    TargetError: if the compiler for the target is not installed.
  """
  import jax
  from jax.experimental import topologies

  if target == "cpu":
    return jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
  try:
    if target == "h100":
      topology = topologies.get_topology_desc(
        platform="cuda", target_config=_H100, topology="1x1x1"
      )
    else:
      topology = topologies.get_topology_desc("v5e:2x2", platform="tpu")
  except Exception as error:  # because a plugin may raise anything
    extra, what = {
      "h100": ("cuda13", "JAX's CUDA plugin, and ptxas and libdevice (CUDA_HOME)"),
      "v5e": ("tpu", "libtpu"),
    }[target]
    raise TargetError(
      f"cannot compile for {target}, which needs {what}; pip install -e '.[{extra}]' ({error})"
    ) from error
  return jax.sharding.SingleDeviceSharding(topology.devices[0])


def compile_for(target: str, function: Any, *args: Any) -> Any:
  """Compiles `function` for one device of the target; args are trees of ShapeDtypeStructs."""
  import jax

  place = sharding(target)
  args = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), args)
  return jax.jit(function).lower(*args).compile()
