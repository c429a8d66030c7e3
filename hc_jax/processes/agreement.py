"""After which step the processes of a run stop: the same in all, whichever got the signal."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hc_jax import sharding
from hc_jax.processes.signals import StopSignal


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
