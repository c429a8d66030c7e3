"""Diagnosis of unexpected errors: does the machine or the installation cause them?"""

import sys
import threading
from pathlib import Path

from hc_jax.errors import UserError

_SECONDS = 20.0  # for JAX to start, because one of several processes would wait for the others
_WINDOWS = (
  "training, data and ablations need a system with fcntl (Linux, macOS, or WSL2 on Windows); "
  "connections, models and ops work without it"
)


def fault(error: BaseException) -> UserError | None:
  """Returns the fault of machine or installation behind an unexpected `error`, or None.

  JAX starts its devices at their first use, which can be anywhere. Its error may have no message
  (an AssertionError for JAX_PLATFORMS=cuda without a GPU). So this function starts JAX again.
  """
  if isinstance(error, ModuleNotFoundError) and error.name == "fcntl":
    return UserError(_WINDOWS)
  if isinstance(error, ModuleNotFoundError) and error.name:
    return _missing(error.name.partition(".")[0])
  try:
    import jax
  except Exception as reason:  # JAX refuses a package version or a variable
    return UserError(f"JAX cannot be imported: {reason}")
  cause = error if "Unable to initialize backend" in str(error) else _start()
  if cause is None:
    return None

  platforms = jax.config.jax_platforms
  asked = f"JAX_PLATFORMS={platforms}" if platforms else "JAX"
  reason = str(cause).partition("\n")[0].partition(" (set JAX_PLATFORMS")[0]
  return UserError(
    f"{asked} cannot start: {reason[:300] or 'there is no such device'}; install JAX for this "
    "device, or unset JAX_PLATFORMS to use the available devices"
  )


def _missing(package: str) -> UserError | None:
  """Returns the error for a package that is not installed; None if the package is hc_jax itself."""
  if package == "hc_jax":
    return None
  remedy = f"install it: {sys.executable} -m pip install {package}"
  if (Path(__file__).parents[1] / "pyproject.toml").is_file():  # a checkout
    remedy = (
      "activate the environment first (source .venv/bin/activate; `make quickstart` makes it), or "
      "install: pip install -e ."
    )
  return UserError(f"{sys.executable} has no package {package}; {remedy}")


def _start() -> Exception | None:
  """Starts JAX's devices; returns the exception if that fails."""
  import jax

  found: list[Exception] = []

  def start() -> None:
    try:
      jax.devices()
    except Exception as error:
      found.append(error)

  thread = threading.Thread(target=start, daemon=True)
  thread.start()
  thread.join(_SECONDS)
  return found[0] if found else None
