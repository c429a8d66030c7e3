"""What every test relies on: eight CPU devices, and no silent rank promotion.

Both must be in the environment before jax is first imported, and a process that a test starts
inherits them. A test that needs other devices gives its process another environment.
"""

import os

_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()
# The suite is about being right, on CPU. JAX_PLATFORMS=cuda python -m pytest ... overrides it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Broadcasting over a missing axis is how a transposed map goes unnoticed: it must be said.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# A test draws pictures into files; a display is never there.
os.environ.setdefault("MPLBACKEND", "agg")
