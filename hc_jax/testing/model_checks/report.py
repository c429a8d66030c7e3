"""`check_model`: checks that a user's own Flax model keeps the conventions of its connections."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from hc_jax.functional import functional
from hc_jax.testing.harness import NotApplicable
from hc_jax.testing.model_checks import conventions, effects
from hc_jax.testing.model_checks.evidence import Evidence, Options
from hc_jax.testing.model_checks.watch import Watched

CONVENTIONS = (
  ("every read has its write", conventions.every_read_is_written),
  ("write takes the coefs of its read", conventions.write_takes_its_reads_coefs),
  ("write takes the streams of its read", conventions.write_takes_its_reads_streams),
  ("streams cross from site to site", conventions.streams_cross_sites),
  ("the index counts sublayers", conventions.index_counts_sites),
  ("sites share no parameters", conventions.sites_share_nothing),
  ("expand copies", effects.expand_copies),
  ("reduce sums, before any norm", effects.reduce_sums),
  ("coefs are float32", conventions.coefs_are_float32),
  ("streams keep their dtype", conventions.streams_keep_their_dtype),
  ("every connection learns", effects.everything_learns),
  ("tokens do not see their future", effects.nothing_leaks),
  ("starts as the residual network", effects.starts_as_residual),
)


@dataclasses.dataclass(frozen=True)
class Line:
  """The result for one convention: `state` is "pass", "FAIL" or "skip", and `why` is the reason."""

  name: str
  state: str
  why: str = ""

  def __str__(self) -> str:
    return f"{self.state}  {self.name}{self.why and f': {self.why}'}"


@dataclasses.dataclass(frozen=True)
class Report:
  """The result of `check_model`; `str(report)` gives the printed lines.

  Attributes:
    lines: a `Line` for each convention, in the order in which they were checked.
  """

  lines: tuple[Line, ...]

  @property
  def ok(self) -> bool:
    """Returns whether no convention is broken; skipped conventions do not count."""
    return not self.broken

  @property
  def broken(self) -> tuple[Line, ...]:
    """Returns the lines that failed."""
    return tuple(line for line in self.lines if line.state == "FAIL")

  def raise_if_broken(self) -> None:
    """Raises AssertionError with the failed lines, if there are any."""
    if self.broken:
      raise AssertionError("\n".join(map(str, self.broken)))

  def __str__(self) -> str:
    return "\n".join(map(str, self.lines))


def check_model(
  model: Any,
  *inputs: Any,
  kwargs: Mapping[str, Any] | None = None,
  rngs: Mapping[str, jax.Array] | None = None,
  causal_axis: int | None = None,
  post_norm: bool = False,
  learned_ends: bool = False,
  log: Callable[[str], None] | None = print,
) -> Report:
  """Runs a Flax model that uses connections, and reports which conventions it breaks, and where.

      hc_jax.testing.check_model(MyModel(), x).raise_if_broken()

  All reads and writes of the model's connections are recorded, in scanned and rematerialised layers
  too, at the initial parameters and away from them. The model must have a single stack of sites;
  check an encoder and a decoder separately. Small inputs are enough.

  Args:
    model: a Linen module, or an NNX module with its initial parameters.
    *inputs: arrays, the positional arguments of the model's call.
    kwargs: keyword arguments of the model's call, such as `{"deterministic": True}`; not traced.
    rngs: keys of a Linen module by name; `params` and `dropout` by default. NNX modules have keys
      of their own, and ignore `rngs`.
    causal_axis: axis of the tokens, in the first input and in the outputs, of a causal model. None
      skips the check of causality.
    post_norm: whether the model norms the streams after each write, each stream separately.
    learned_ends: whether the model has its own expand or reduce, instead of copies and their sum.
    log: function that receives each line as soon as it is known; None prints nothing.

  Returns:
    A `Report`. Broken conventions and exceptions of the model are lines in it, and are not raised;
    call `raise_if_broken()` for an AssertionError.

  Raises:
    TypeError: if `model` is neither a Linen nor an NNX module.
  """
  model = functional(model)
  options = Options(causal_axis, post_norm, learned_ends)
  rngs = rngs or {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  lines = []

  def add(name: str, state: str, why: str = "") -> None:
    lines.append(Line(name, state, why))
    if log is not None:
      log(str(lines[-1]))

  try:
    evidence = Evidence(Watched(model, inputs, kwargs or {}, rngs), options)
  except Exception as error:  # a user's model may raise anything
    add("the model runs", "FAIL", _first_line(error))
    return Report(tuple(lines))
  for name, check in CONVENTIONS:
    try:
      check(evidence)
    except NotApplicable as reason:
      add(name, "skip", str(reason))
    except AssertionError as error:
      add(name, "FAIL", str(error))
    except Exception as error:
      add(name, "FAIL", _first_line(error))
    else:
      add(name, "pass")
  return Report(tuple(lines))


def _first_line(error: Exception) -> str:
  text = (str(error).strip().splitlines() or [""])[0]
  return f"it raised {type(error).__name__}: {text}"
