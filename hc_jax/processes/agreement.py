"""Agreement of a run's processes on the step after which they all stop."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hc_jax import sharding
from hc_jax.processes.signals import StopSignal


class Agreement:
  """Vote that stops all processes of a run after the same step, whichever process got the signal.

  Each process casts a vote at every step. The maximum over all devices is computed next to the
  step, and read together with the step's numbers, so all processes read the same votes at the same
  step. A run of one process asks its signal handler directly.

  JAX's own preemption sync point is not used. It learns of SIGTERM by its own handler, which ours
  replaces, and it handles neither SIGINT nor a second signal.
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
    """Whether to stop; the same answer in all processes."""
    return self._agreed if self._many else self._stop.requested

  @property
  def name(self) -> str:
    """Name of the signal, or a phrase if another process got it."""
    return self._stop.name or "a signal to another process"

  def cast(self) -> jax.Array | None:
    """Launches the vote of this step; returns None if there is one process."""
    if not self._many:
      return None
    mine = self._yes if self._stop.requested else self._no
    return self._any(jax.make_array_from_process_local_data(self._where, mine))

  def count(self, vote: jax.Array | None) -> None:
    """Reads a vote that `cast` launched."""
    self._agreed = self._agreed or (vote is not None and bool(jax.device_get(vote)))
