"""The dtype that fits a device."""

from typing import Any

import jax

BFLOAT16_SINCE = 8.0  # compute capability of NVIDIA's Ampere, the first with bfloat16 units


def choose_dtype(device: Any = None) -> tuple[str, str]:
  """Returns the dtype for matrix products and streams on a device, and the reason.

  The dtype is bfloat16 on a TPU and on NVIDIA GPUs of compute capability 8.0 or more (Ampere). It
  is float32 elsewhere, GPUs of other makers included. Whichever it is, parameters, coefficients and
  the loss stay float32. float16 is never chosen: its range is small, and the trainer does not scale
  the loss.

  Args:
    device: device of JAX; the first one by default.

  Returns:
    "bfloat16" or "float32", and the reason as a clause, such as "NVIDIA H100 (compute capability
    9.0) computes in bfloat16".
  """
  device = jax.devices()[0] if device is None else device
  kind = device.device_kind
  if device.platform == "cpu":
    return "float32", "a CPU computes fastest in float32"
  if device.platform == "tpu":
    return "bfloat16", f"{kind} computes in bfloat16"
  capability = str(getattr(device, "compute_capability", ""))
  try:
    number = float(capability)
  except ValueError:  # an AMD GPU says gfx90a
    return "float32", f"whether {kind} computes in bfloat16 is not known here"
  if number >= BFLOAT16_SINCE:
    return "bfloat16", f"{kind} (compute capability {capability}) computes in bfloat16"
  return "float32", (
    f"{kind} (compute capability {capability}) has no bfloat16 units; they begin with "
    f"{BFLOAT16_SINCE}"
  )
