"""What all proofs share: when numbers are equal, and how a check fails or does not apply."""

FORWARD, GRADIENT = 2e-6, 1e-5  # relative norms over a whole output or gradient tree, in float32


class NotApplicable(Exception):
  """The check asks about something that is not there; says what."""


def check(holds: bool, message: str) -> None:
  """Raises AssertionError with the one line `message` unless it holds (`python -O` included)."""
  if not holds:
    raise AssertionError(message)
