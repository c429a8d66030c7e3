"""Tests of fields: their limits are declared once, and values outside are refused."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import fields
from hc_jax.fields import Field, check_fields, field, fields_of
from hc_jax.nearest import hint, nearest
from hc_jax.train.settings import LanguageSettings

NAN, INF = float("nan"), float("inf")


class Plain(nn.Module):
  """One of Flax.

  Attributes:
    width: of it. More is said here.
    rate, other: of
      dropping (b. 1).

  And more.
  """

  width: int = field(least=1)
  rate: float = field(0.5, least=0, below=1)
  words: float = field(1.0, words=("sqrt_n",), above=0)
  kind: str | None = field(None, choices=("layernorm", "rmsnorm"))
  dtype: type = field(jnp.float32, kind=str, choices=("float32",))
  bare: int = 3
  texts: tuple[str, ...] = ()


class Other(Plain):
  rate: float = 0.25
  kind: str = "rmsnorm"


def test_a_field_is_read_off_its_class():
  found = fields_of(Plain)
  assert found["width"] == Field(
    name="width", kind=int, meaning="of it", least=1, default=fields.REQUIRED
  )
  assert (found["kind"].unset, found["kind"].kind) == (True, str)
  assert found["dtype"].kind is str and found["bare"] == Field(name="bare", kind=int, default=3)
  assert Plain(width=2).rate == 0.5
  assert (found["rate"].meaning, found["bare"].meaning) == ("of dropping (b. 1)", "")


def test_a_subclass_with_another_default_keeps_what_the_field_takes():
  found = fields_of(Other)
  assert (found["rate"].default, found["rate"].below) == (0.25, 1)
  assert (found["kind"].default, found["kind"].unset) == ("rmsnorm", False)
  assert found["kind"].choices == ("layernorm", "rmsnorm") and found["width"].meaning == "of it"


@pytest.mark.parametrize(
  "name, value, words",
  [
    ("width", 0, "must be at least 1"),
    ("width", 10**20, "must be at most 2147483647"),
    ("width", True, "must be a whole number"),
    ("width", 1.0, "must be a whole number"),
    ("width", None, "must be a whole number"),
    ("bare", -(10**20), "must be at least -2147483647"),
    ("rate", NAN, "must be a finite number"),
    ("rate", -INF, "must be a finite number"),
    ("rate", 1, "must be less than 1"),
    ("words", 1e39, "must be at most 3.402"),
    ("rate", -1e-9, "must be at least 0"),
    ("rate", "0.1", "must be a number"),
    ("rate", False, "must be a number"),
    ("words", 0, "must be more than 0"),
    ("words", "sqrt", "must be a number or 'sqrt_n'"),
    ("kind", "layernrom", "is unknown; choose one of .*; did you mean 'layernorm'"),
    ("kind", 1, "must be text"),
    ("texts", "ab", "must be a list such as a,b"),
    ("texts", ("a", 1), "must be a list such as a,b"),
  ],
)
def test_what_cannot_mean_anything_is_refused(name, value, words):
  with pytest.raises(hc.UserError, match=f"^x.{name}=.* {words}"):
    fields.check({name: value}, fields_of(Plain), "x.")


@pytest.mark.parametrize(
  "name, value",
  [("width", 1), ("width", 2**31 - 1), ("rate", 0), ("rate", 0.999), ("words", "sqrt_n")]
  + [
    ("words", 1e30),
    ("rate", np.float32(0.5)),
    ("texts", ("a",)),
    ("texts", []),
    ("width", np.int64(3)),
    ("kind", None),
    ("kind", "rmsnorm"),
    ("bare", -5),
  ],
)
def test_the_limits_themselves_are_taken(name, value):
  fields.check({name: value}, fields_of(Plain))


@pytest.mark.parametrize(
  "bad",
  [
    {"trackers": ("a",)},
    {"trackers": "a:b"},
    {"eval_every": -1},
    {"keep": 0},
    {"num_steps": NAN},
    {"profile": "3"},
    {"debug_nans": 1},
  ],
)
def test_settings_check_themselves(bad):
  (name,) = bad
  with pytest.raises(hc.UserError, match=f"^{name}="):
    LanguageSettings(**bad)


def test_every_setting_says_what_it_is():
  assert all(found.meaning for found in fields_of(LanguageSettings).values())


def test_a_dataclass_of_ones_own():
  @dataclasses.dataclass(frozen=True)
  class Mine:
    size: int = field(1, least=1)

    def __post_init__(self):
      check_fields(self)

  assert Mine().size == 1
  with pytest.raises(hc.UserError, match="size=0 must be at least 1"):
    Mine(0)


def test_the_nearest_name():
  known = ["model.num_layers", "train.num_steps", "seed"]
  assert nearest("layers", known) is None
  assert nearest("layers", [*known, "model.block.layer"], separator=".") == "model.block.layer"
  assert nearest("train.num_step", known) == "train.num_steps"
  assert nearest("zzz", known) is None and hint("zzz", known) == ""
  assert nearest("other.py", ["mine.py"], cutoff=0.8) is None
  assert hint("sed", known) == "; did you mean 'seed'?"
