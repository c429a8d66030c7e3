"""Optimizers and schedules: any of optax by name, decay by parameter path, clipping by global norm.

The learning rate is a function of the step and of the *current* config. A run that is resumed with
another `train.num_steps` therefore follows the new schedule from there on: its decay ends at the
new end, and the rate may jump at the step of resumption. Nothing is remembered but the step.
"""

import inspect
from collections.abc import Callable
from typing import Any

import optax

from hc_jax.errors import UserError
from hc_jax.params import decay_mask

# The field's words for what optax calls `<name>_schedule` and the like. All begin with the warmup.
_SHORT = {
  "constant": "constant_schedule",
  "linear": "linear_schedule",
  "cosine": "cosine_decay_schedule",
  "warmup_cosine": "cosine_decay_schedule",
  "warmup_linear": "linear_schedule",
  "warmup_constant": "constant_schedule",
}


def make_schedule(optim: Any, num_steps: int) -> optax.Schedule:
  """The learning rate by step: a linear warmup from 0, then the schedule that `optim` names.

  Args:
    optim: fields learning_rate (the peak), schedule, warmup_steps, end_fraction. `schedule` is
      "warmup_cosine", "linear", "constant", or the name of a schedule factory of optax, whose
      arguments are filled by their names: the peak, `end_fraction` times the peak, and the
      steps that are left after warmup.
    num_steps: where the decay ends. A run shorter than its warmup ends while warming up.

  Returns:
    step (int, 0 for the first update) -> learning rate.

  Raises:
    UserError: no such schedule, or one with arguments that no config key gives.
  """
  peak, fraction = float(optim.learning_rate), float(optim.end_fraction)
  left = max(int(num_steps) - int(optim.warmup_steps), 1)
  factory = getattr(optax.schedules, _SHORT.get(optim.schedule, optim.schedule), None)
  known = {
    "value": peak,
    "init_value": peak,
    "peak_value": peak,
    "end_value": peak * fraction,
    "alpha": fraction,
    "decay_rate": fraction,
    "power": 1.0,
    "decay_steps": left,
    "transition_steps": left,
  }
  if factory is None or optim.schedule.startswith(("join", "inject")):
    raise UserError(
      f"optim.schedule={optim.schedule!r} is unknown; choose one of {', '.join(_SHORT)}, or the "
      "name of a schedule of optax without a warmup of its own"
    )
  parameters = inspect.signature(factory).parameters
  missing = [n for n, p in parameters.items() if p.default is p.empty and n not in known]
  if missing:
    raise UserError(
      f"optim.schedule={optim.schedule!r} needs {', '.join(missing)}, which no config key gives; "
      f"choose one of {', '.join(_SHORT)}"
    )
  decay = factory(**{name: known[name] for name in parameters if name in known})
  if optim.warmup_steps <= 0:
    return decay
  warmup = optax.linear_schedule(0.0, peak, int(optim.warmup_steps))
  return optax.join_schedules([warmup, decay], [int(optim.warmup_steps)])


def make_optimizer(
  optim: Any, num_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """The optimizer that `optim` describes, clipping included, and its schedule.

  Weight decay follows `hc_jax.params.decay_mask`: by parameter path, never by rank, so that it is
  the same for scanned and unrolled layers.

  Args:
    optim: fields name (an optimizer factory of optax that takes learning_rate), b1, b2, eps,
      weight_decay, clip_norm (0: off), and those of `make_schedule`. An optimizer gets those of b1,
      b2, eps that it takes in Adam's sense.
    num_steps: of the run.

  Raises:
    UserError: no such optimizer, or weight_decay for one that has none.
  """
  schedule = make_schedule(optim, num_steps)
  factory = getattr(optax, optim.name, None)
  takes = _parameters(factory)
  if "learning_rate" not in takes or optim.name.startswith("scale_by"):
    raise UserError(
      f"optim.name={optim.name!r} is no optimizer of optax that takes learning_rate; "
      "use adamw, adam, lion, adafactor, sgd, ..."
    )
  # eps means another thing to optimizers that keep no second moment (adafactor, adagrad).
  names = ("b1", "b2", "eps") if "b2" in takes else ("b1",)
  fields = {name: float(optim[name]) for name in names if name in takes}
  rate = next((n for n in ("weight_decay", "weight_decay_rate") if n in takes), None)
  mask = next((n for n in ("mask", "weight_decay_mask") if n in takes), None)
  if optim.weight_decay and (rate is None or mask is None):
    raise UserError(
      f"optim.name={optim.name!r} has no weight decay by parameter; "
      "set optim.weight_decay=0, or use adamw, lion, lamb, adafactor, ..."
    )
  if rate and mask:
    fields |= {rate: float(optim.weight_decay) or (0.0 if rate == "weight_decay" else None)}
    fields |= {mask: decay_mask}
  elif rate:
    fields |= {rate: 0.0}
  optimizer = factory(schedule, **fields)
  if optim.clip_norm:
    optimizer = optax.chain(optax.clip_by_global_norm(float(optim.clip_norm)), optimizer)
  return optimizer, schedule


def _parameters(factory: Callable[..., Any] | None) -> list[str]:
  return list(inspect.signature(factory).parameters) if inspect.isfunction(factory) else []
