"""Check that the processes of a run belong together: same config, same data, same workdir."""

import json
from collections.abc import Mapping
from typing import Any

from hc_jax import config as config_lib
from hc_jax.errors import UserError
from hc_jax.processes import cluster
from hc_jax.runs import workdir


def check_alike(
  config: Mapping[str, Any], identity: Mapping[str, Any], folder: str, debug_nans: bool = False
) -> None:
  """Refuses processes that do not belong to the same run. Every process must make this call.

  Args:
    config: nested groups of JSON values that describe the run.
    identity: facts of the task and of its data.
    folder: the workdir.
    debug_nans: whether the run locates the first NaN, which only a run of one process can do.

  Raises:
    UserError: the processes have different configs, data or workdirs, or `debug_nans` is set.
  """
  if cluster.count() == 1:
    return
  configs = [json.loads(c) for c in cluster.gather(json.dumps(config))]
  for other, found in enumerate(configs):
    if keys := config_lib.diff(configs[0], found):
      raise UserError(
        f"process {other} and process 0 differ in {' and '.join(keys)}; start all processes with "
        "the same --config and overrides"
      )
  facts = [json.loads(f) for f in cluster.gather(json.dumps(dict(identity)))]
  for other, found in enumerate(facts):
    if keys := config_lib.diff(facts[0], found):
      values = "; ".join(f"{key} {found.get(key)} and {facts[0].get(key)}" for key in keys)
      raise UserError(
        f"process {other} and process 0 have different data ({values}); "
        "give every host the same files, tokenizer and packages"
      )
  workdir.check_shared(folder)
  if debug_nans:
    raise UserError("`debug_nans=True` needs a run of one process; start one, or leave it out")
