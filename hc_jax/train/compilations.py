"""Counter of the programs that JAX compiles during a run, and of compilation-cache hits."""

from types import TracebackType
from typing import Any

import jax

_PROGRAM = "/jax/core/compile/backend_compile_duration"
_HIT, _MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


class Compilations:
  """Context manager that counts compiled programs, cache hits and cache misses."""

  def __init__(self) -> None:
    self.programs = self.hits = self.misses = 0

  def __enter__(self) -> "Compilations":
    jax.monitoring.register_event_listener(self._event)
    jax.monitoring.register_event_duration_secs_listener(self._duration)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    jax.monitoring.unregister_event_listener(self._event)
    jax.monitoring.unregister_event_duration_listener(self._duration)

  def _event(self, event: str, **_: Any) -> None:
    self.hits += event == _HIT
    self.misses += event == _MISS

  def _duration(self, event: str, seconds: float, **_: Any) -> None:
    del seconds
    self.programs += event == _PROGRAM

  def cached(self, since: tuple[int, int] = (0, 0)) -> str:
    """Returns the hits and misses after `since` (hits, misses) as text; "no cache" without one."""
    if not jax.config.jax_compilation_cache_dir:
      return "no cache"
    hits, misses = self.hits - since[0], self.misses - since[1]
    return f"cache: {hits} {_plural('hit', hits)}, {misses} {_plural('miss', misses)}"


def _plural(word: str, count: int) -> str:
  return word if count == 1 else word + ("es" if word.endswith("s") else "s")
