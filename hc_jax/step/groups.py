"""Groups of parameters, by patterns over paths, with a learning rate and a decay of their own.

(("connections", {"learning_rate_factor": 0.1, "weight_decay": 0.0}),
("embedding$", {"weight_decay": 0.0}))
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from hc_jax.errors import UserError
from hc_jax.fields import Field, problems
from hc_jax.nearest import hint
from hc_jax.params import is_connection, named_leaves, path_name

# The pattern that is not a regular expression: the parameters of connections.
CONNECTIONS = "connections"
TAKES = {
  name: Field(name=name, kind=float, least=0) for name in ("learning_rate_factor", "weight_decay")
}
Groups = Sequence[tuple[str, Mapping[str, float]]]


def problem(groups: Groups) -> str | None:
  """Returns a problem of the groups that any parameters would have, or None."""
  for i, group in enumerate(groups):
    if not (isinstance(group, tuple | list) and len(group) == 2 and isinstance(group[1], Mapping)):
      return (
        f"has {group!r} at {i}; write (pattern, fields), such as "
        "(('connections',{'learning_rate_factor':0.1}),)"
      )
    pattern, own = group
    if unknown := next((name for name in own if name not in TAKES), None):
      return (
        f"has a group of {pattern!r} with {unknown!r}{hint(str(unknown), TAKES)}; fields are "
        f"{', '.join(TAKES)}"
      )
    if wrong := next(problems(own, TAKES), None):
      return f"has a group of {pattern!r} whose {wrong}"
    try:
      re.compile(pattern)
    except (re.error, TypeError) as error:
      return f"has {pattern!r}, which is not a regular expression ({error}); correct it"
  return None


def group_of(path: str, groups: Groups) -> int | None:
  """Returns the index, from 0, of the first group whose pattern is found in the path, or None.

  Args:
    path: path of a parameter, "a/b/name".
    groups: pairs of a pattern and fields; the fields are not used. The pattern "connections" means
      all parameters of connections. Any other is a regular expression for `re.search`.

  Raises:
    re.error: if a pattern is not a regular expression.
  """
  for i, (pattern, _) in enumerate(groups):
    if is_connection(path) if pattern == CONNECTIONS else re.search(pattern, path):
      return i
  return None


def check_matches(params: Any, groups: Groups) -> None:
  """Raises UserError, with the nearest path, if a group has none of the parameters."""
  paths = [path for path, _ in named_leaves(params)]
  if not paths:  # optax asks for a state of placeholders
    return
  found = {group_of(path, groups) for path in paths}
  for i, (pattern, _) in enumerate(groups):
    if i not in found:
      near = hint(pattern, paths, "/") or "; `hc-jax params CONFIG` lists the paths"
      taken = any(group_of(path, [groups[i]]) is not None for path in paths)
      what = "has only parameters of groups before it" if taken else "matches no parameter"
      raise UserError(f"groups[{i}]={pattern!r} {what}{near}")


def grouped(
  make: Callable[[optax.Schedule, float], optax.GradientTransformation],
  schedule: optax.Schedule,
  weight_decay: float,
  groups: Groups,
) -> optax.GradientTransformation:
  """Returns an optimizer whose groups of parameters have their own learning rate and decay.

  Args:
    make: `(schedule, weight_decay) -> optimizer`, for one group.
    schedule: learning rate by step.
    weight_decay: decay of parameters outside of groups, and of groups that do not set it.
    groups: as in `group_of`. Without groups the result is `make(schedule, weight_decay)`.

  Raises:
    UserError: at `init`, if a group has no parameters.
  """
  if not groups:
    return make(schedule, weight_decay)

  def of_group(own: Mapping[str, float]) -> optax.GradientTransformation:
    factor = own.get("learning_rate_factor", 1.0)
    rate = schedule if factor == 1 else lambda step: factor * schedule(step)
    return make(rate, own.get("weight_decay", weight_decay))

  def labels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: _label(path_name(path), groups), params)

  parts = {str(i): of_group(own) for i, (_, own) in enumerate(groups)}
  partition = optax.partition({"rest": make(schedule, weight_decay), **parts}, labels)

  def init(params: Any) -> Any:
    check_matches(params, groups)
    return partition.init(params)

  return optax.GradientTransformationExtraArgs(init, partition.update)


def _label(path: str, groups: Groups) -> str:
  group = group_of(path, groups)
  return "rest" if group is None else str(group)
