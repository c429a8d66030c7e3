"""Prepares every test: eight CPU devices, no silent rank promotion, and compiled code kept."""

import os

from tests import environment

environment.prepare()  # before jax is first imported

import pytest  # noqa: E402  (after the environment)


def pytest_configure(config: pytest.Config) -> None:
  """Before the workers start, and in none of them, for all use the folder at once."""
  del config
  if "PYTEST_XDIST_WORKER" not in os.environ:
    environment.forget_old_code()


@pytest.fixture
def optimised(monkeypatch):
  """Code is compiled as users have it: for tests of what XLA makes of it."""
  monkeypatch.setattr(environment, "optimised", True)


def pytest_make_parametrize_id(val: object) -> str | None:
  """Bytes go into a test's name by length: compressed ones hold the time, and ids must agree."""
  return f"{len(val)}bytes" if isinstance(val, bytes) else None
