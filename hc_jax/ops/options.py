"""Two options of every operation: its backend and its derivatives."""

import contextlib
from collections.abc import Iterator

# Backends. "auto" is the fastest for the platform, which today is always XLA.
IMPLEMENTATIONS = ("auto", "xla")
# "custom": reverse mode, written by hand. "autodiff": JAX's own, for forward mode too (jvp, jacfwd,
# linearize).
DERIVATIVES = ("custom", "autodiff")


def check_options(implementation: str, derivatives: str) -> None:
  """Raises ValueError, with the remedy, unless both options are known words."""
  if implementation == "autodiff":
    raise ValueError(
      "implementation='autodiff' is now derivatives='autodiff'; implementation chooses a backend: "
      f"{', '.join(IMPLEMENTATIONS)}"
    )
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f"implementation={implementation!r} is unknown; choose one of {IMPLEMENTATIONS}"
    )
  if derivatives not in DERIVATIVES:
    raise ValueError(f"derivatives={derivatives!r} is unknown; choose one of {DERIVATIVES}")


@contextlib.contextmanager
def reverse_mode() -> Iterator[None]:
  """Adds the remedy to JAX's error about forward mode through a hand-written derivative.

  Under `jax.linearize`, and where `jax.jvp` meets a jitted function, JAX raises later; its message
  then stays unchanged.

  Raises:
    TypeError: instead of the TypeError that JAX raises within the context.
  """
  try:
    yield
  except TypeError as error:
    if "custom_vjp" not in str(error):
      raise
    raise TypeError(
      "forward-mode differentiation (jvp, jacfwd, linearize) of a hand-written reverse-mode "
      'derivative; give the connection or operation derivatives="autodiff"'
    ) from error
