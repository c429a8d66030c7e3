"""Parts that all checks share: tolerances, and how a check fails or does not apply."""

# Largest relative difference, by the norm of a whole output or gradient tree, in float32.
FORWARD, GRADIENT = 2e-6, 1e-5


class NotApplicable(Exception):
  """Exception of a check that does not apply to its subject; the message gives the reason."""


def check(holds: bool, message: str) -> None:
  """Raises AssertionError with `message` unless `holds`; works under `python -O` too."""
  if not holds:
    raise AssertionError(message)
