"""Preparation of every test: eight CPU devices, no silent rank promotion, kept compiled code."""

import os

from tests import environment

environment.prepare()  # before jax is first imported

import pytest  # noqa: E402  (after the environment)


def pytest_configure(config: pytest.Config) -> None:
  """Empties the folder of compiled code before the workers start, because they share it."""
  del config
  if "PYTEST_XDIST_WORKER" not in os.environ:
    environment.forget_old_code()


@pytest.fixture
def optimised(monkeypatch):
  """Compiles with XLA's optimisations, as users do, for tests of compiled code."""
  monkeypatch.setattr(environment, "optimised", True)


def pytest_make_parametrize_id(val: object) -> str | None:
  """Names bytes by their length, because compressed bytes contain the time and ids must agree."""
  return f"{len(val)}bytes" if isinstance(val, bytes) else None
