"""Fields that say what they take: choices and limits, declared once, where they are used.

A class of any kind, a frozen dataclass or a Flax module, declares them. Its docstring, which has an
entry for each under "Attributes:", says what they mean:

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
# JAX's keys take 32 bits of a seed: a larger one would draw what a smaller one draws.
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
    name: of the field.
    kind: bool, int, float, str or tuple.
    default: its value where none is given; `REQUIRED` without one.
    meaning: of its entry in the docstring, the first sentence.
    items: of a tuple, what each of it is.
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
    """The kind of its values, in words: `a whole number`."""
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
    # (A whole number may be too large to be asked.)
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
    default: its default, as of `dataclasses.field`.
    **facts: of `Field`. `kind`, `unset` and `meaning` are read off the class where they are not
      given.
  """
  given = {} if default is REQUIRED else {"default": default}
  return dataclasses.field(**given, metadata={_METADATA: facts})


@functools.cache
def fields_of(cls: type) -> Mapping[str, Field]:
  """Returns what the fields of a class take, in their order.

  A subclass that only gives a field another default keeps the declaration of its base. A field
  declared without `field` has the kind of its annotation and no limits.
  """
  return {found.name: _declared(cls, found) for found in dataclasses.fields(cls)}


def _declared(cls: type, found: dataclasses.Field) -> Field:
  """Returns a field with all that its classes say of it; the lowest that says a thing decides."""
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
  """Checks values against what their fields take.

  Args:
    values: by the name of the field; those that are not declared are passed over.
    declared: of `fields_of`.
    prefix: of the names in the message.

  Raises:
    UserError: a value of another kind, an unknown word, a number outside the limits, NaN or
      infinity.
  """
  if wrong := next(problems(values, declared), None):
    raise UserError(f"{prefix}{wrong}")


def problems(values: Mapping[str, Any], declared: Mapping[str, Field]) -> Iterator[str]:
  """Yields what is wrong with values, each as `name=value must be at least 1`."""
  for name, found in declared.items():
    if name in values and (problem := found.problem(values[name])):
      yield f"{name}={_short(values[name])} {problem}"


def under(group: str, message: str, names: Container[str]) -> str:
  """Returns a message of a room below, with the group of keys that its fields are in.

  Args:
    group: dotted.
    message: begins with `name=` where it is about one field.
    names: of the group's fields.
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
