"""Fields that say what they take: meaning, choices and limits, declared once, where they are used.

A class of any kind, a frozen dataclass or a Flax module, declares them:

    class Settings:
      keep: int = field(2, "newest checkpoints kept, besides the best", least=1)

The keys of configs, their checks and the table in docs/config.md are made from the declarations.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from hc_jax.errors import UserError
from hc_jax.nearest import hint

# Whole numbers end up in int32 in compiled programs.
LARGEST = 2**31 - 1
REQUIRED = inspect.Parameter.empty
_METADATA = "hc_jax"
_WORDS = {
  bool: "true or false",
  int: "a whole number",
  float: "a number",
  str: "text",
  tuple: "a list such as a,b or ('a','b')",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
  """What a field takes.

  Attributes:
    name: of the field.
    kind: bool, int, float, str or tuple.
    default: its value where none is given; `REQUIRED` without one.
    meaning: one line.
    unset: whether it may be None.
    choices: the words that it takes; any without.
    words: words that a number may be instead.
    least, most: the smallest and the largest number, both allowed.
    above, below: numbers that it must be larger and smaller than.
    check: returns what is wrong with a value of the right kind, or None.
  """

  name: str = ""
  kind: type = object
  default: Any = REQUIRED
  meaning: str = ""
  unset: bool = False
  choices: tuple[str, ...] = ()
  words: tuple[str, ...] = ()
  least: float | None = None
  most: float | None = None
  above: float | None = None
  below: float | None = None
  check: Callable[[Any], str | None] | None = None

  @property
  def takes(self) -> str:
    """What it takes, in words: `a whole number`."""
    return " or ".join([_WORDS.get(self.kind, self.kind.__name__), *map(repr, self.words)])

  def problem(self, value: Any) -> str | None:
    """Returns what is wrong with a value, such as `must be at least 1`, or None."""
    if (value is None and self.unset) or (type(value) is str and value in self.words):
      return None
    if not self._fits(value):
      return f"must be {self.takes}"
    if self.choices and value not in self.choices:
      return f"is unknown; choose one of {', '.join(self.choices)}{hint(str(value), self.choices)}"
    if self.kind in (int, float) and (limit := self._limit(value)):
      return limit
    return self.check(value) if self.check else None

  def _fits(self, value: Any) -> bool:
    if self.kind is float:
      return type(value) is not bool and isinstance(value, int | float)
    if self.kind is int:
      return type(value) is int
    return isinstance(value, self.kind)

  def _limit(self, value: float) -> str | None:
    if not math.isfinite(value):
      return "must be a finite number"
    if self.least is not None and value < self.least:
      return f"must be at least {self.least}"
    if self.above is not None and value <= self.above:
      return f"must be more than {self.above}"
    if self.below is not None and value >= self.below:
      return f"must be less than {self.below}"
    most = LARGEST if self.most is None and self.kind is int else self.most
    if most is not None and value > most:
      return f"must be at most {most}"
    return f"must be at least {-LARGEST}" if self.kind is int and value < -LARGEST else None


def field(default: Any = REQUIRED, meaning: str = "", **facts: Any) -> Any:
  """Declares a field of a dataclass or a Flax module.

  Args:
    default: its default, as of `dataclasses.field`.
    meaning: one line, for the table of keys.
    **facts: of `Field`. `kind` and `unset` are read off the annotation where they are not given.
  """
  metadata = {_METADATA: Field(meaning=meaning, **facts), f"{_METADATA}_given": frozenset(facts)}
  given = {} if default is REQUIRED else {"default": default}
  return dataclasses.field(**given, metadata=metadata)


def fields_of(cls: type) -> dict[str, Field]:
  """Returns what the fields of a class take, in their order.

  A subclass that only gives a field another default keeps the declaration of its base. A field
  declared without `field` has the kind of its annotation and no limits.
  """
  return {found.name: _declared(cls, found) for found in dataclasses.fields(cls)}


def _declared(cls: type, found: dataclasses.Field) -> Field:
  annotation, metadata = object, {}
  for base in reversed(cls.__mro__):
    if found.name in inspect.get_annotations(base):
      annotation = _annotation(base, found.name)
    own = vars(base).get("__dataclass_fields__", {}).get(found.name)
    metadata = own.metadata if own is not None and own.metadata.get(_METADATA) else metadata
  kinds = getattr(annotation, "__args__", (annotation,))
  kinds = [kind for kind in kinds if isinstance(kind, type) and kind is not type(None)]
  read = {"unset": found.default is None or type(None) in getattr(annotation, "__args__", ())}
  read["kind"] = kinds[0] if kinds else type(found.default)
  declared, given = metadata.get(_METADATA, Field()), metadata.get(f"{_METADATA}_given", ())
  read = {name: value for name, value in read.items() if name not in given}
  default = REQUIRED if found.default is dataclasses.MISSING else found.default
  return dataclasses.replace(declared, name=found.name, default=default, **read)


def _annotation(base: type, name: str) -> Any:
  try:
    return inspect.get_annotations(base, eval_str=True)[name]
  except NameError:  # a name that only type checkers import
    return object


def check(values: Mapping[str, Any], declared: Mapping[str, Field], prefix: str = "") -> None:
  """Checks values against what their fields take.

  Args:
    values: by the name of the field; those that are not declared are passed over.
    declared: of `fields_of`.
    prefix: of the names in the message.

  Raises:
    UserError: a value of another kind, an unknown word, a number outside the limits, NaN or
      infinity.
  """
  for name, found in declared.items():
    if name in values and (problem := found.problem(values[name])):
      raise UserError(f"{prefix}{name}={repr(values[name])[:60]} {problem}")


def check_fields(instance: Any) -> None:
  """Checks the values of a dataclass against what its fields take; raises UserError."""
  declared = fields_of(type(instance))
  check({name: getattr(instance, name) for name in declared}, declared)
