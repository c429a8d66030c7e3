"""Sweeps: a base config, and arms that differ from it only in their connection."""

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
# Keys that an arm may change: they make the residual path. Everything else must equal the base, so
# that arms can be compared seed by seed.
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
  """A grid of runs, arms x seeds (x learning rates); all runs of a seed see the same batches.

  Attributes:
    base: config of a run, which each arm changes.
    arms: changes by name of the arm, as dotted keys and values: `{"shc4":
      {"model.connection.name": "hc", "model.connection.dynamic": False}}`. An arm that sets
      `model.connection.name` starts from the defaults of connections; other arms change the
      connection of the base.
    seeds: seeds of the runs of each arm.
    baseline: name of the arm that the others are compared with; the first arm if empty.
    learning_rates: learning rates at which every arm is trained. They must include the base's
      `optim.learning_rate`, at which the report compares the arms. Empty: only the base's.
    one_by_one: whether runs are trained one after the other by the ordinary training loop, because
      several models do not fit on a device. By default the seeds of an arm train in one program.
    title: title of the report.
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
    """Returns the name of the arm that the others are compared with."""
    return self.baseline or next(iter(self.arms))

  @property
  def shared_rate(self) -> float:
    """Returns the learning rate at which arms are compared."""
    return float(self.base.optim.learning_rate)

  def groups(self) -> list["Group"]:
    """Returns one group (an arm at a learning rate, all seeds) for each cell of the sweep."""
    rates = [float(rate) for rate in self.learning_rates] or [self.shared_rate]
    return [
      Group(arm, rate, len(rates) > 1 or bool(self.learning_rates))
      for rate in rates
      for arm in self.arms
    ]

  def config(self, group: "Group", seed: int) -> ConfigDict:
    """Returns the locked config of one run.

    Args:
      group: arm and learning rate.
      seed: seed of the run.

    Raises:
      UserError: if the arm sets an unknown key, or a value of the wrong type.
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
    """Raises UserError, with the remedy, if an arm or a config of the sweep cannot run.

    Each arm's model is made, but nothing is compiled.
    """
    self.check_arms()
    for key in ("mirror", "trackers"):
      if value := self.base.train[key]:
        raise UserError(
          f"train.{key}={value!r} is for a single run, but all runs of the sweep would share it; "
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
    """Raises UserError if arms, seeds or learning rates are invalid; makes no config."""
    takes = keys()
    for name, key in (("seeds", "seed"), ("learning_rates", "optim.learning_rate")):
      check(
        {f"{name}[{i}]": value for i, value in enumerate(getattr(self, name))},
        {f"{name}[{i}]": takes[key] for i in range(len(getattr(self, name)))},
      )
    if not self.arms:
      raise UserError("the sweep has no arms; give arms={name: {key: value}}")
    if self.baseline_arm not in self.arms:
      raise UserError(
        f"baseline={self.baseline!r} is not an arm; choose one of {', '.join(self.arms)}"
      )
    for name, delta in self.arms.items():
      if not _NAME.fullmatch(name):
        raise UserError(
          f"arm {name!r} cannot name a folder; use letters, digits and _ . + -, a letter first"
        )
      _check_delta(name, delta)
    if not self.seeds or len(set(self.seeds)) != len(self.seeds):
      raise UserError(f"seeds={tuple(self.seeds)} must have at least one seed, and none twice")
    if self.learning_rates and self.shared_rate not in map(float, self.learning_rates):
      raise UserError(
        f"learning_rates={tuple(self.learning_rates)} must include the base's "
        f"optim.learning_rate={self.shared_rate:g}, at which the report compares the arms"
      )
    if len(set(map(float, self.learning_rates))) != len(self.learning_rates):
      raise UserError(f"learning_rates={tuple(self.learning_rates)} has one rate twice; remove it")


@dataclasses.dataclass(frozen=True)
class Group:
  """The runs of one arm at one learning rate, one run for each seed.

  Attributes:
    arm: name of the arm.
    learning_rate: peak learning rate.
    crossed: whether the sweep names learning rates, so that the id must contain this one.
  """

  arm: str
  learning_rate: float
  crossed: bool = False

  @property
  def id(self) -> str:
    """Returns the group's name, which is the name of its folder too."""
    return f"{self.arm}-lr{self.learning_rate:g}" if self.crossed else self.arm


def _check_delta(name: str, delta: Mapping[str, Any]) -> None:
  for key in delta:
    if not (key.startswith(CONNECTION) or key in ARM_KEYS):
      raise UserError(
        f"arm {name!r} sets {key!r}, but paired arms may differ only in their connection. An arm "
        f"may set {CONNECTION}*, {', '.join(ARM_KEYS)}; set anything else in the base"
      )


def load_sweep(path: str, overrides: Sequence[str] = (), **changes: Any) -> Sweep:
  """Returns the checked sweep of a Python file that defines `get_sweep()`.

  Args:
    path: path of the file, which is executed.
    overrides: flags `--config.group.key=value`, applied to the base.
    **changes: fields of `Sweep` to replace; None keeps the value of the file. `arms` is a list of
      names here, the arms to keep; the baseline is always kept.

  Raises:
    UserError: if the file, the overrides or the sweep are wrong.
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
      f"{unseen[0]} would change no arm, because each arm sets its own connection; edit {path}"
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
