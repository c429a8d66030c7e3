"""Faults of the machine that look like faults of the program, told apart after they happened."""

import threading

from hc_jax.errors import UserError

_SECONDS = 20.0  # for JAX to start; one of several processes would wait for the others
_WINDOWS = (
  "training, data and ablations need a system with fcntl (Linux, macOS, or WSL2 on Windows); "
  "connections, models and ops work without it"
)


def fault(error: BaseException) -> UserError | None:
  """Returns the fault of the machine behind an unexpected `error`; None if there is none.

  JAX starts its devices when the first of them is needed, anywhere, and its error may have no words
  (an AssertionError for JAX_PLATFORMS=cuda without a GPU). So it is asked to start again.
  """
  if isinstance(error, ModuleNotFoundError) and error.name == "fcntl":
    return UserError(_WINDOWS)
  cause = error if "Unable to initialize backend" in str(error) else _start()
  if cause is None:
    return None
  import jax

  platforms = jax.config.jax_platforms
  asked = f"JAX_PLATFORMS={platforms}" if platforms else "JAX"
  reason = str(cause).partition("\n")[0].partition(" (set JAX_PLATFORMS")[0]
  return UserError(
    f"{asked} cannot start: {reason[:300] or 'there is no such device'}; install JAX for this "
    "device, or unset JAX_PLATFORMS to use those that there are"
  )


def _start() -> Exception | None:
  """Starts JAX's devices; returns the reason if they cannot be started."""
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
