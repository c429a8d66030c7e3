"""Declarations of fields: the values that a field takes, with choices and limits.

A frozen dataclass or a Flax module declares its fields. The "Attributes:" of its docstring explain
their meaning:

    class Settings:
      keep: int = field(2, least=1)

The keys of configs, their checks and the table in docs/config.md are made from the declarations.
"""

import dataclasses
import functools
import inspect
import math
import numbers
import re
import typing
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from hc_jax.errors import UserError
from hc_jax.nearest import hint

# Numbers end up in int32 and float32 in compiled programs.
LARGEST = {int: 2**31 - 1, float: float(2**128 - 2**104)}
SMALLEST = 2.0**-126
# JAX's keys use 32 bits of a seed: a larger seed would draw the numbers of a smaller one.
LARGEST_SEED = 2**32 - 1
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
  """Declaration of a field: the values that it takes, and their meaning.

  Attributes:
    name: name of the field.
    kind: type of its values: bool, int, float, str or tuple.
    default: default value; `REQUIRED` for a field without a default.
    meaning: first sentence of the field's entry in the docstring.
    items: type of the items of a tuple.
    unset: whether the value may be None.
    choices: allowed words; empty if all are allowed.
    words: words that are allowed instead of a number.
    least, most: smallest and largest allowed number.
    above, below: numbers that the value must be larger and smaller than.
    check: returns a problem of a value of the right kind, or None.
  """

  name: str = ""
  kind: type = object
  default: Any = REQUIRED
  meaning: str = ""
  items: type = object
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
    """Kind of the field's values, in words: `a whole number`."""
    return " or ".join([_WORDS.get(self.kind, self.kind.__name__), *map(repr, self.words)])

  def problem(self, value: Any) -> str | None:
    """Returns what is wrong with a value, such as `must be at least 1`, or None."""
    if (value is None and self.unset) or (type(value) is str and value in self.words):
      return None
    if not self._fits(value):
      return f"must be {self.takes}"
    if self.check and (problem := self.check(value)):
      return problem
    if self.choices and value not in self.choices:
      return f"is unknown; choose one of {', '.join(self.choices)}{hint(str(value), self.choices)}"
    return self._limit(value) if self.kind in LARGEST else None

  def _fits(self, value: Any) -> bool:
    if self.kind is tuple:
      return isinstance(value, tuple | list) and all(isinstance(one, self.items) for one in value)
    number = {int: numbers.Integral, float: numbers.Real}.get(self.kind)
    if number is not None:
      return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, self.kind) or self.kind not in _WORDS

  def _limit(self, value: float) -> str | None:
    # Whole numbers are left out, because `isfinite` fails on very large ones.
    if not isinstance(value, numbers.Integral) and not math.isfinite(value):
      return "must be a finite number"
    largest = LARGEST[self.kind]
    least = -largest if self.least is None else self.least
    most = largest if self.most is None else self.most
    if value < least:
      return f"must be at least {least}"
    if value > most:
      return f"must be at most {most}"
    if self.above is not None and value <= self.above:
      return f"must be more than {self.above}"
    if self.below is not None and value >= self.below:
      return f"must be less than {self.below}"
    return None


def field(default: Any = REQUIRED, **facts: Any) -> Any:
  """Declares a field of a dataclass or a Flax module.

  Args:
    default: default value of the field.
    **facts: attributes of `Field`. `kind`, `unset` and `meaning` follow from the class where they
      are not given.
  """
  given = {} if default is REQUIRED else {"default": default}
  return dataclasses.field(**given, metadata={_METADATA: facts})


@functools.cache
def fields_of(cls: type) -> Mapping[str, Field]:
  """Returns the declarations of the fields of a class, by name and in order.

  A subclass that only gives a field another default keeps the declaration of its base. A field
  declared without `field` has the kind of its annotation and no limits.
  """
  return {found.name: _declared(cls, found) for found in dataclasses.fields(cls)}


def _declared(cls: type, found: dataclasses.Field) -> Field:
  """Returns the declaration of a field, in which a subclass overrides its bases fact by fact."""
  annotation, facts, meaning = Any, {}, ""
  for base in reversed(cls.__mro__):
    if found.name in inspect.get_annotations(base):
      annotation = _annotation(base, found.name)
    own = vars(base).get("__dataclass_fields__", {}).get(found.name)
    facts = (own.metadata.get(_METADATA) if own is not None else None) or facts
    meaning = _meanings(base).get(found.name, meaning)
  origin = typing.get_origin(annotation)
  kinds = (origin,) if origin in _WORDS else getattr(annotation, "__args__", (annotation,))
  named = next((kind for kind in kinds if isinstance(kind, type) and kind in _WORDS), None)
  default = REQUIRED if found.default is dataclasses.MISSING else found.default
  read = {"kind": named or type(found.default), "meaning": meaning}
  read["unset"] = default is None or type(None) in kinds
  if origin is tuple and isinstance(typing.get_args(annotation)[0], type):
    read["items"] = typing.get_args(annotation)[0]
  return Field(**{**read, **facts, "name": found.name, "default": default})


def _annotation(base: type, name: str) -> Any:
  try:
    return inspect.get_annotations(base, eval_str=True)[name]
  except NameError:  # a name that only type checkers import
    return Any


@functools.cache
def _meanings(cls: type) -> Mapping[str, str]:
  """Returns the first sentence of every entry under "Attributes:" in a class's docstring."""
  text = inspect.cleandoc(vars(cls).get("__doc__") or "").partition("\nAttributes:\n")[2]
  entries = re.split(r"^  (?=\S)", re.split(r"^\S", text, flags=re.M)[0], flags=re.M)
  found = {}
  for entry in filter(None, entries):
    names, _, meaning = entry.partition(":")
    sentence = re.split(r"\.\s+(?=[A-Z`\"])", meaning.strip(), maxsplit=1)[0]
    found.update(dict.fromkeys(names.split(", "), " ".join(sentence.split()).rstrip(".")))
  return found


def check(values: Mapping[str, Any], declared: Mapping[str, Field], prefix: str = "") -> None:
  """Raises UserError unless all values are allowed by the declarations of their fields.

  Args:
    values: values by the name of the field; undeclared names are ignored.
    declared: declarations, as `fields_of` returns them.
    prefix: text before the name in the message.

  Raises:
    UserError: if a value has another kind, is an unknown word, a number outside of the limits, NaN
      or infinity.
  """
  if wrong := next(problems(values, declared), None):
    raise UserError(f"{prefix}{wrong}")


def problems(values: Mapping[str, Any], declared: Mapping[str, Field]) -> Iterator[str]:
  """Yields the problems of values, each as `name=value must be at least 1`."""
  for name, found in declared.items():
    if name in values and (problem := found.problem(values[name])):
      yield f"{name}={_short(values[name])} {problem}"


def under(group: str, message: str, names: Container[str]) -> str:
  """Returns a message about a field with the field's group of config keys added.

  Args:
    group: dotted name of the group.
    message: the message, which begins with `name=` if it is about one field.
    names: names of the group's fields.
  """
  return f"{group}.{message}" if message.partition("=")[0] in names else f"{group}: {message}"


def values_of(instance: Any) -> dict[str, Any]:
  """Returns the values of the fields of a dataclass or a Flax module, by their names."""
  return {found.name: getattr(instance, found.name) for found in dataclasses.fields(instance)}


def check_fields(instance: Any) -> None:
  """Checks the values of a dataclass against what its fields take; raises UserError."""
  check(values_of(instance), fields_of(type(instance)))


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:57]}..."
