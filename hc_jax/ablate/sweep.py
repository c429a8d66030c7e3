"""A sweep: a base config, and arms that differ from it in their connection alone."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hc_jax import config as config_lib
from hc_jax.config import ConfigDict
from hc_jax.config_files import execute
from hc_jax.config_keys import keys
from hc_jax.errors import UserError
from hc_jax.fields import check
from hc_jax.models import make_model

CONNECTION = "model.connection."
# What an arm may change: how the residual path is made. Data, batches, seeds, branches, optimizer
# and stream_dtype are the base's, in every arm.
ARM_KEYS = (
  "model.layers",
  "model.block",
  "model.expand",
  "model.expand_init_std",
  "model.reduce",
  "model.norm_position",
  "model.attention_views",
  "model.output_init_scale",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Arms x seeds (x learning rates), every run of which sees the same batches as its seed's others.

  Attributes:
    base: a config, of which every run is a delta.
    arms: by name, dotted keys and values: `{"shc4": {"model.connection.name": "hc",
      "model.connection.dynamic": False}}`. An arm that names its connection starts from that
      connection's defaults; one that does not changes the base's.
    seeds: `seed` of the runs of an arm.
    baseline: the arm that the others are compared with; the first if left empty.
    learning_rates: crosses arms with these; the base's `optim.learning_rate`, which must be among
      them, is the shared one. Empty: the base's alone.
    one_by_one: train each run by itself, by the ordinary training loop, in place of all seeds of an
      arm in one program: for models of which several do not fit on a device.
    title: of the report.
  """

  base: ConfigDict
  arms: Mapping[str, Mapping[str, Any]]
  seeds: Sequence[int] = (0, 1, 2)
  baseline: str = ""
  learning_rates: Sequence[float] = ()
  one_by_one: bool = False
  title: str = "Ablation"

  @property
  def baseline_arm(self) -> str:
    """The arm that the others are compared with."""
    return self.baseline or next(iter(self.arms))

  @property
  def shared_rate(self) -> float:
    """The learning rate at which arms are compared."""
    return float(self.base.optim.learning_rate)

  def groups(self) -> list["Group"]:
    """What trains together: the seeds of one arm at one learning rate; in the order of report."""
    rates = [float(rate) for rate in self.learning_rates] or [self.shared_rate]
    return [
      Group(arm, rate, len(rates) > 1 or bool(self.learning_rates))
      for rate in rates
      for arm in self.arms
    ]

  def config(self, group: "Group", seed: int) -> ConfigDict:
    """The config of one run, locked.

    Raises:
      UserError: an arm sets what is no key, or a value of another type.
    """
    config = config_lib.from_json(config_lib.to_json(self.base), self.base)
    delta = dict(self.arms[group.arm])
    if CONNECTION + "name" in delta:
      with config.unlocked():
        config.model.connection = config_lib.connection_defaults()
    config_lib.assign(config, delta)
    config_lib.assign(config, {"seed": seed, "optim.learning_rate": group.learning_rate})
    return config

  def check(self) -> None:
    """Raises UserError, with the remedy, for what no sweep can be; compiles nothing."""
    self.check_arms()
    for key in ("mirror", "trackers"):
      if value := self.base.train[key]:
        raise UserError(
          f"train.{key}={value!r} is for one run, and all runs of a sweep would share it; "
          "leave it out"
        )
    for group in self.groups():
      try:
        config = self.config(group, self.seeds[0])
        config_lib.check(config)
        make_model(config.model, vocab_size=None if config.model.vocab_size else 1)
      except UserError as error:
        raise UserError(f"arm {group.arm!r}: {error}") from error

  def check_arms(self) -> None:
    """Raises UserError for arms, seeds and rates that no sweep can have; makes no config."""
    takes = keys()
    for name, key in (("seeds", "seed"), ("learning_rates", "optim.learning_rate")):
      check(
        {f"{name}[{i}]": value for i, value in enumerate(getattr(self, name))},
        {f"{name}[{i}]": takes[key] for i in range(len(getattr(self, name)))},
      )
    if not self.arms:
      raise UserError("the sweep has no arms; give arms={name: {key: value}}")
    if self.baseline_arm not in self.arms:
      raise UserError(f"baseline={self.baseline!r} is no arm; choose one of {', '.join(self.arms)}")
    for name, delta in self.arms.items():
      if not _NAME.fullmatch(name):
        raise UserError(
          f"arm {name!r}: its name is that of a folder too; use letters, digits and _ . + -"
        )
      _check_delta(name, delta)
    if not self.seeds or len(set(self.seeds)) != len(self.seeds):
      raise UserError(f"seeds={tuple(self.seeds)}: at least one, and no seed twice")
    if self.learning_rates and self.shared_rate not in map(float, self.learning_rates):
      raise UserError(
        f"learning_rates={tuple(self.learning_rates)} must hold the base's "
        f"optim.learning_rate={self.shared_rate:g}, the one that the report compares all arms at"
      )
    if len(set(map(float, self.learning_rates))) != len(self.learning_rates):
      raise UserError(f"learning_rates={tuple(self.learning_rates)} has one twice")


@dataclasses.dataclass(frozen=True)
class Group:
  """The runs of one arm at one learning rate, one of each seed.

  Attributes:
    arm: its name.
    learning_rate: the peak.
    crossed: whether there are several rates, so that the id needs to say which.
  """

  arm: str
  learning_rate: float
  crossed: bool = False

  @property
  def id(self) -> str:
    """Names it, also as a folder."""
    return f"{self.arm}-lr{self.learning_rate:g}" if self.crossed else self.arm


def _check_delta(name: str, delta: Mapping[str, Any]) -> None:
  for key in delta:
    if not (key.startswith(CONNECTION) or key in ARM_KEYS):
      raise UserError(
        f"arm {name!r} sets {key!r}: arms are paired, and differ in their connection alone. An arm "
        f"may set {CONNECTION}*, {', '.join(ARM_KEYS)}; anything else belongs in the base"
      )


def load_sweep(path: str, overrides: Sequence[str] = (), **changes: Any) -> Sweep:
  """The sweep of a Python file with `get_sweep()`, checked.

  Args:
    path: of the file; it is executed.
    overrides: `--config.group.key=value`, of the base.
    **changes: fields of `Sweep` to replace; None leaves the file's. `arms` is names here: of those
      to keep.

  Raises:
    UserError: whatever is wrong with file, overrides or sweep.
  """
  sweep = execute(path, "get_sweep")
  if not isinstance(sweep, Sweep):
    raise UserError(
      f"get_sweep() of {path} returns {type(sweep).__name__}; it must return hc_jax.ablate.Sweep"
    )
  config_lib.override(sweep.base, overrides)
  unseen = [flag for flag in overrides if flag.startswith(f"--config.{CONNECTION}")]
  if unseen and all(CONNECTION + "name" in delta for delta in sweep.arms.values()):
    raise UserError(
      f"{unseen[0]} would change no arm: each names its connection and sets its fields; edit {path}"
    )
  names = changes.pop("arms", None)
  changes = {key: value for key, value in changes.items() if value is not None}
  if names is not None:
    unknown = [name for name in names if name not in sweep.arms]
    if unknown:
      raise UserError(f"there is no arm {unknown[0]!r}; {path} has {', '.join(sweep.arms)}")
    kept = [name for name in sweep.arms if name in names or name == sweep.baseline_arm]
    changes |= {
      "arms": {name: sweep.arms[name] for name in kept},
      "baseline": sweep.baseline_arm,
    }
  sweep = dataclasses.replace(sweep, **changes)
  sweep.check()
  return sweep
