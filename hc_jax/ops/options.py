"""How an operation is computed and differentiated: two words that every operation takes."""

import contextlib
from collections.abc import Iterator

# The backend. "auto" is the fastest one there is for the platform, which today is XLA.
IMPLEMENTATIONS = ("auto", "xla")
# Reverse mode by hand, or by JAX; forward mode (jvp, jacfwd, linearize) needs JAX's own.
DERIVATIVES = ("custom", "autodiff")


def check_options(implementation: str, derivatives: str) -> None:
  """Raises ValueError, with the remedy, unless both are words of the tuples above."""
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
  """Adds the remedy to JAX's refusal of forward-mode differentiation of a hand-written derivative.

  Under `jax.linearize`, and where `jax.jvp` meets a jitted function, JAX raises later, in its own
  words.
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
