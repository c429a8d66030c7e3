"""What the processes of a run agree on: what they train, and after which step they stop."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hc_jax import config as config_lib
from hc_jax import sharding
from hc_jax.errors import UserError
from hc_jax.signals import StopSignal
from hc_jax.train import processes, workdir


def check_alike(config: Any, text: Any, folder: str) -> None:
  """Refuses processes that do not belong together; all of them must come here.

  Args:
    config: of the run.
    text: its prepared data.
    folder: its workdir.

  Raises:
    UserError: another config, other data, another workdir, or what one process alone can do.
  """
  if processes.count() == 1:
    return
  configs = [json.loads(c) for c in processes.gather(json.dumps(config_lib.to_json(config)))]
  for other, found in enumerate(configs):
    if keys := config_lib.diff(configs[0], found):
      raise UserError(
        f"process {other} has another {' and '.join(keys)} than process 0; start all of them with "
        "the same --config and overrides"
      )
  texts = processes.gather(f"{text.fingerprint}, {len(text.train)} tokens")
  for other, found in enumerate(texts):
    if found != texts[0]:
      raise UserError(
        f"process {other} has other text than process 0 (fingerprints {found} and {texts[0]}); "
        "give every host the same files, tokenizer and packages"
      )
  workdir.check_shared(folder)
  if config.train.debug_nans:
    raise UserError("train.debug_nans=true looks for a NaN in one process; it needs a run of one")


class Agreement:
  """Makes the processes of a run stop after the same step, whichever of them got the signal.

  With every step each process casts a vote, the maximum over all devices is taken beside the step,
  and is read when the step's numbers are: all read the same votes at the same step. (JAX's own
  preemption sync point hears of SIGTERM through a handler of its own, which ours replaces; and it
  knows neither SIGINT nor a second signal.) One process asks its handler alone.
  """

  def __init__(self, stop: StopSignal, mesh: Mesh) -> None:
    self._stop, self._agreed = stop, False
    self._many = jax.process_count() > 1
    if self._many:
      self._where = NamedSharding(mesh, PartitionSpec(sharding.AXES))
      local = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)
      self._yes, self._no = np.ones(local, np.int32), np.zeros(local, np.int32)
      self._any = jax.jit(jnp.max, out_shardings=sharding.replicated(mesh))

  @property
  def requested(self) -> bool:
    """Whether to stop; the same in all processes."""
    return self._agreed if self._many else self._stop.requested

  @property
  def name(self) -> str:
    """Of the signal."""
    return self._stop.name or "a signal to another process"

  def cast(self) -> jax.Array | None:
    """Launches the vote of this step; None with one process."""
    if not self._many:
      return None
    mine = self._yes if self._stop.requested else self._no
    return self._any(jax.make_array_from_process_local_data(self._where, mine))

  def count(self, vote: jax.Array | None) -> None:
    """Reads a vote that was cast."""
    self._agreed = self._agreed or (vote is not None and bool(jax.device_get(vote)))
