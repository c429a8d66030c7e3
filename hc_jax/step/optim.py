"""Optimizers and schedules: any of optax by name, decay by parameter path, clipping by global norm.

The learning rate is a function of the step and of the *current* settings. A run that is resumed
with another number of steps therefore follows the new schedule. Its decay ends at the new end, and
the rate may jump at the step of resumption. Only the step is remembered.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from hc_jax.errors import UserError
from hc_jax.fields import SMALLEST, check_fields, field
from hc_jax.params import decay_mask
from hc_jax.step.groups import grouped, problem

# Short names for schedules of optax. All begin with the warmup.
_SHORT = {
  "constant": "constant_schedule",
  "linear": "linear_schedule",
  "cosine": "cosine_decay_schedule",
  "warmup_cosine": "cosine_decay_schedule",
  "warmup_linear": "linear_schedule",
  "warmup_constant": "constant_schedule",
}
# Arguments of optax's schedules that `make_schedule` gives.
_FILLED = ("value", "init_value", "peak_value", "end_value", "alpha", "decay_rate", "power")
_FILLED += ("decay_steps", "transition_steps")


def _optimizer(name: str) -> str | None:
  """Returns a problem of an optimizer's name, or None."""
  if "learning_rate" in _parameters(getattr(optax, name, None)) and not name.startswith("scale_by"):
    return None
  return (
    "is not an optimizer of optax that takes learning_rate; use adamw, adam, lion, adafactor, sgd, "
    "..."
  )


def _schedule(name: str) -> str | None:
  """Returns a problem of a schedule's name, or None."""
  factory = getattr(optax.schedules, _SHORT.get(name, name), None)
  if factory is None or name.startswith(("join", "inject")):
    return (
      f"is unknown; choose one of {', '.join(_SHORT)}, or the name of a schedule of optax without "
      "a warmup of its own"
    )
  parameters = inspect.signature(factory).parameters
  missing = [n for n, p in parameters.items() if p.default is p.empty and n not in _FILLED]
  if missing:
    return (
      f"needs {', '.join(missing)}, which nothing here gives; choose one of {', '.join(_SHORT)}"
    )
  return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimSettings:
  """Settings of an optimizer: the keys of the group `optim`.

  Attributes:
    name: "adamw", or another optimizer of optax.
    learning_rate: peak of the learning rate.
    schedule: "warmup_cosine", "warmup_linear", "constant", or another schedule of optax.
    warmup_steps: number of steps over which the learning rate rises from 0.
    end_fraction: fraction of the peak learning rate at the last step.
    b1: decay of the mean of gradients.
    b2: decay of the mean of squared gradients.
    eps: added to the root of the mean of squared gradients.
    weight_decay: weight decay of dynamic kernels, kernels and embeddings.
    clip_norm: largest global norm of the gradient; 0 does not clip.
    groups: parameters with a learning rate and a decay of their own, as
      (('connections',{'learning_rate_factor':0.1,'weight_decay':0.0}),). A pattern is a regular
      expression over paths, or `connections`. The first that is found in a path decides.

  Raises:
    UserError: if a field does not take its value.
  """

  name: str = field("adamw", check=_optimizer)
  learning_rate: float = field(3e-4, least=0)
  schedule: str = field("warmup_cosine", check=_schedule)
  warmup_steps: int = field(2000, least=0)
  end_fraction: float = field(0.1, least=0, most=1)
  b1: float = field(0.9, least=0, below=1)
  b2: float = field(0.95, least=0, below=1)
  eps: float = field(1e-8, least=SMALLEST)
  weight_decay: float = field(0.1, least=0)
  clip_norm: float = field(1.0, least=0)
  groups: tuple = field((), check=problem)

  def __post_init__(self) -> None:
    check_fields(self)


# Decays that depend on (step - warmup) / (end - warmup) alone, so that the end may be traced.
_BY_FRACTION = ("constant_schedule", "linear_schedule", "cosine_decay_schedule")


@dataclasses.dataclass(frozen=True)
class Recipe:
  """An optimizer and its learning rate, for a last step that is not known yet.

  The last step can be an argument of the compiled program, so that a longer run reuses it.

  Attributes:
    make: `schedule -> optax.GradientTransformation`, with the same state for all schedules.
    rate: `(step, end) -> learning rate`; None for an optimizer without a schedule.
    follows_end: whether `end` may be traced; otherwise it is a constant of the program.
  """

  make: Callable[[optax.Schedule | None], optax.GradientTransformation]
  rate: Callable[[Any, Any], Any] | None = None
  follows_end: bool = True

  @classmethod
  def of(cls, optimizer: "optax.GradientTransformation | Recipe") -> "Recipe":
    """Returns a recipe unchanged, and an optimizer as a recipe without a schedule."""
    return optimizer if isinstance(optimizer, cls) else cls(lambda _: optimizer)

  def schedule(self, end: Any) -> optax.Schedule | None:
    """Returns the learning rate by step for a run of `end` steps; None without a schedule."""
    return None if self.rate is None else lambda step: self.rate(step, end)

  def optimizer(self, end: Any) -> optax.GradientTransformation:
    """Returns the optimizer of a run of `end` steps."""
    return self.make(self.schedule(end))


def make_schedule(optim: Any, num_steps: int) -> optax.Schedule:
  """Returns the learning rate by step: a linear warmup from 0, then the schedule of `optim`.

  Args:
    optim: fields learning_rate (the peak), schedule, warmup_steps, end_fraction. `schedule` is
      "warmup_cosine", "linear", "constant", or the name of a schedule factory of optax, whose
      arguments are filled by their names: the peak, `end_fraction` times the peak, and the
      steps that are left after warmup.
    num_steps: last step of the decay. A run shorter than its warmup ends while warming up.

  Returns:
    Function from the step (int, 0 for the first update) to the learning rate.

  Raises:
    UserError: if the schedule is unknown, or needs arguments that no field gives.
  """
  rate, _ = _rate(optim)
  return lambda step: rate(step, num_steps)


def _rate(optim: Any) -> tuple[Callable[[Any, Any], Any], bool]:
  """Returns `(step, end) -> learning rate`, see `make_schedule`, and whether end may be traced."""
  if wrong := _schedule(optim.schedule):
    raise UserError(f"schedule={optim.schedule!r} {wrong}")
  name, warmup = _SHORT.get(optim.schedule, optim.schedule), int(optim.warmup_steps)
  peak, fraction = float(optim.learning_rate), float(optim.end_fraction)
  factory = getattr(optax.schedules, name)
  takes = inspect.signature(factory).parameters

  def decay(left: Any) -> optax.Schedule:
    values = (peak, peak, peak, peak * fraction, fraction, fraction, 1.0, left, left)
    given = dict(zip(_FILLED, values, strict=True))
    return factory(**{name: given[name] for name in takes if name in given})

  def rate(step: Any, end: Any) -> Any:
    if name in _BY_FRACTION:
      left = jnp.maximum(jnp.asarray(end, jnp.float32) - warmup, 1.0)
      value = decay(1.0)(jnp.asarray(step - warmup, jnp.float32) / left)
    else:
      value = decay(max(int(end) - warmup, 1))(step - warmup)
    if warmup <= 0:
      return value
    return jnp.where(step < warmup, optax.linear_schedule(0.0, peak, warmup)(step), value)

  return rate, name in _BY_FRACTION


def make_optimizer(
  optim: Any, num_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns the optimizer that `optim` describes, clipping included, and its schedule.

  Args:
    optim: `OptimSettings`, or the group `optim` of a config; see `make_recipe`.
    num_steps: number of steps of the run; a schedule that decays ends there.

  Raises:
    UserError: in the cases of `make_recipe` and `make_schedule`; by the optimizer's `init`, if a
      group has none of the parameters.
  """
  recipe = make_recipe(optim)
  return recipe.optimizer(num_steps), recipe.schedule(num_steps)


def make_recipe(optim: Any) -> Recipe:
  """Returns a recipe: `recipe.optimizer(num_steps)` is the optimizer of optax, clipping included.

  Weight decay follows `hc_jax.params.decay_mask` with its defaults: by the name of a parameter, and
  by its number of axes only where it does not know the name.

  Args:
    optim: fields name (an optimizer factory of optax that takes learning_rate), b1, b2, eps,
      weight_decay, clip_norm (0: off), groups, and the fields of `make_schedule`. An optimizer
      that takes b2 gets those of b1, b2 and eps that it takes. Any other gets at most b1.

  Raises:
    UserError: if the optimizer or schedule is unknown, or weight_decay is set, also in a group, for
      an optimizer that has no weight decay with a mask.
  """
  rate, follows_end = _rate(optim)
  if wrong := _optimizer(optim.name):
    raise UserError(f"name={optim.name!r} {wrong}")
  factory = getattr(optax, optim.name)
  takes = _parameters(factory)
  # In optimizers without a second moment (adafactor, adagrad) eps has another meaning.
  names = ("b1", "b2", "eps") if "b2" in takes else ("b1",)
  fields = {name: float(getattr(optim, name)) for name in names if name in takes}
  decay = next((n for n in ("weight_decay", "weight_decay_rate") if n in takes), None)
  mask = next((n for n in ("mask", "weight_decay_mask") if n in takes), None)
  groups = getattr(optim, "groups", ())
  decays = [optim.weight_decay, *(own.get("weight_decay", 0) for _, own in groups)]
  if any(decays) and (decay is None or mask is None):
    raise UserError(
      f"name={optim.name!r} has no weight decay by parameter; "
      "set weight_decay=0, or use adamw, lion, lamb, adafactor, ..."
    )

  def make_one(schedule: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    own = dict(fields)
    if decay and mask:
      own |= {decay: float(weight_decay) or (0.0 if decay == "weight_decay" else None)}
      own |= {mask: decay_mask}
    elif decay:
      own |= {decay: 0.0}
    return factory(schedule, **own)

  def make(schedule: optax.Schedule | None) -> optax.GradientTransformation:
    optimizer = grouped(make_one, schedule, optim.weight_decay, groups)
    if optim.clip_norm:
      optimizer = optax.chain(optax.clip_by_global_norm(float(optim.clip_norm)), optimizer)
    return optimizer

  return Recipe(make, rate, follows_end)


def _parameters(factory: Callable[..., Any] | None) -> list[str]:
  return list(inspect.signature(factory).parameters) if inspect.isfunction(factory) else []
