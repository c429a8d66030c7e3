"""Rematerialisation policies for stacks of blocks, by name."""

import re
from collections.abc import Callable

import flax.linen as nn
import jax

from hc_jax.nearest import hint

REMAT = ("none", "branches", "full")
_GROUPS = re.compile(r"blocks:([1-9]\d*)")


def problem(remat: str) -> str | None:
  """Returns what is wrong with the name of a policy, or None."""
  if remat in REMAT or _GROUPS.fullmatch(remat):
    return None
  return (
    f"is unknown; choose one of {', '.join(REMAT)}, or blocks:K with a number for K, such as "
    f"blocks:4{hint(remat, REMAT)}"
  )


def group_size(remat: str) -> int | None:
  """Returns K of the policy "blocks:K", and None for other policies.

  Raises:
    ValueError: if the policy is unknown.
  """
  if wrong := problem(remat):
    raise ValueError(f"remat={remat!r} {wrong}")
  found = _GROUPS.fullmatch(remat)
  return int(found[1]) if found else None


def check_groups(remat: str, num_layers: int) -> None:
  """Raises ValueError if the policy is unknown, or its groups do not add up to `num_layers`."""
  size = group_size(remat)
  if size and num_layers % size:
    able = [k for k in range(2, num_layers + 1) if num_layers % k == 0]
    raise ValueError(
      f"remat={remat!r} makes groups of {size} blocks, but there are {num_layers}: choose "
      + (" or ".join(f"'blocks:{k}'" for k in able) or "'full'")
    )


def rematerialised(run: Callable, remat: str, in_scan: bool) -> Callable:
  """Returns `run(module, carry, layer, context)` wrapped by the remat policy of that name.

  Raises:
    ValueError: if the policy is unknown.
  """
  size = group_size(remat)
  if remat == "none":
    return run
  policy = None
  if size is None and remat == "branches":
    policy = jax.checkpoint_policies.save_only_these_names("branch_output", "coefs")
  # In a loop the layer's number stays static, because shapes of parameters may depend on it.
  static = () if in_scan else (2,)
  return nn.remat(run, policy=policy, prevent_cse=not in_scan, static_argnums=static)
