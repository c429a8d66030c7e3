"""Several processes of one run: they find each other, exchange text, and end together.

JAX's coordination service connects the processes. Its address and the process numbers come from
flags, or from a cluster that JAX detects (SLURM, Open MPI, TPU pods, Kubernetes). Text that all
processes must agree on goes through the service's key-value store, not through the devices. The
store works before a mesh exists, and waits while one process prepares data.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from importlib import metadata

import jax
from jax._src import distributed as _service  # the key-value store has no public name

from hc_jax import output
from hc_jax.errors import UserError
from hc_jax.fields import field, fields_of, problems, values_of
from hc_jax.processes.coordinator import listen_address
from hc_jax.tables import aligned

_LONGEST = 7 * 24 * 3600  # seconds
_FOREVER = _LONGEST * 1000  # milliseconds; the heartbeat notices a process that dies
# Words in the errors of collectives and of the coordination service when a peer is gone.
_LOST = ("Gloo", "UNAVAILABLE", "Connection closed by peer", "Connection reset", "heartbeat")
LOST = 134  # exit code if another process died; the same as of SIGABRT, by which JAX ends a process
_IN_ORDER = (0, 75)  # exit codes: finished, and stopped by a signal
_TOGETHER = (*_IN_ORDER, 2, 3)  # if one process ends with such a code, all do
_WAIT = 10.0  # seconds for the others to fail as well
_DAY = 24 * 3600
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
_rounds = itertools.count()


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Address, size and timeouts of a group of processes.

  Attributes:
    distributed: "auto" uses the fields below, else a cluster that JAX detects, else one process;
      "off" is one process.
    coordinator: HOST:PORT at which process 0 listens; None detects it.
    num_processes: number of processes; None detects it.
    process_id: number of this process, from 0; None detects it.
    connect_timeout: seconds to wait for the other processes at the start.
    heartbeat_timeout: seconds of silence after which a process counts as dead.
  """

  distributed: str = "auto"
  coordinator: str | None = None
  num_processes: int | None = field(None, least=1)
  process_id: int | None = field(None, least=0)
  connect_timeout: float = field(300.0, above=0, most=_LONGEST)
  heartbeat_timeout: float = field(100.0, least=1, most=_LONGEST)


def connect(cluster: Cluster) -> None:
  """Joins the other processes of the run. Call it before any other use of JAX.

  If the others do not come in time, prints that to stderr and ends the process with exit code 2.

  Raises:
    UserError: flags contradict each other, the address cannot be used, or the processes differ in
      number, packages or precision.
  """
  given = {
    "--coordinator": cluster.coordinator,
    "--num-processes": cluster.num_processes,
    "--process-id": cluster.process_id,
  }
  _check(cluster, given)
  if cluster.distributed == "off" or cluster.num_processes == 1:
    return
  explicit = cluster.coordinator is not None
  if not explicit and "1" in (os.environ.get(n) for n in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")):
    return  # alone: JAX would assign it only one device of its host
  # JAX's handler of SIGTERM would replace ours (see agreement.py).
  jax.config.update("jax_enable_preemption_service", False)
  # Otherwise JAX could still detect a cluster, and restrict the local devices by it.
  method = {"cluster_detection_method": "deactivate"} if explicit else {}
  if explicit and cluster.process_id == 0:
    method["coordinator_bind_address"] = listen_address(cluster.coordinator)
  with _patience(cluster):
    try:
      jax.distributed.initialize(
        cluster.coordinator,
        cluster.num_processes,
        cluster.process_id,
        # Longer than our timeout, because JAX's own ends the process by SIGABRT.
        initialization_timeout=int(cluster.connect_timeout) + 60,
        heartbeat_timeout_seconds=max(1, int(cluster.heartbeat_timeout)),
        shutdown_timeout_seconds=_DAY,  # a process that is done waits for others that still save
        **method,
      )
      _compare()
    except ValueError as error:
      if explicit or "coordinator_address" not in str(error):
        raise
      return  # no cluster: one process
    except (RuntimeError, OSError) as error:
      if not explicit and "must be called before" in str(error):
        return  # a single process whose caller has used JAX already, such as a notebook
      reason = str(error).strip().splitlines()[0]
      raise UserError(
        f"the processes of this run cannot connect at {cluster.coordinator or 'the cluster'}: "
        f"{reason}; check that the port is free and the host's name right, or run one process: "
        "--distributed=off"
      ) from error


def _compare() -> None:
  """Refuses processes that would compute different things; JAX would abort without a reason.

  Raises:
    UserError: this process differs from process 0, or this is process 0 and another one differs.
  """
  mine = {"--num-processes": str(count()), "jax_enable_x64": str(jax.config.jax_enable_x64)}
  mine |= {name: metadata.version(name) for name in _PACKAGES}
  client = _service.global_state.client
  client.key_value_set(f"hc_jax/start/{index()}", json.dumps(mine))
  others = range(count()) if is_main() else (0,)  # the numbers of processes may differ
  for other in others:
    found = json.loads(client.blocking_key_value_get(f"hc_jax/start/{other}", _FOREVER))
    if different := [name for name in mine if found.get(name) != mine[name]]:
      name = different[0]
      raise UserError(
        f"process {index()} has {name}={mine[name]} and process {other} has {found.get(name)}; "
        "start all of them with the same packages, variables (JAX_ENABLE_X64) and --num-processes"
      )


def _check(cluster: Cluster, given: dict[str, object]) -> None:
  if cluster.distributed not in ("auto", "off"):
    raise UserError(f"--distributed={cluster.distributed} is unknown; choose auto or off")
  if wrong := next(problems(values_of(cluster), fields_of(Cluster)), None):
    raise UserError(f"--{wrong.replace('_', '-', 1)}")
  missing = [name for name, value in given.items() if value is None]
  there = [name for name, value in given.items() if value is not None]
  if there and cluster.distributed == "off":
    raise UserError(f"{there[0]} has no effect with --distributed=off; leave one of the two out")
  if there and missing:
    raise UserError(f"{there[0]} needs {' and '.join(missing)} as well")
  if not there:
    return
  host, _, port = cluster.coordinator.rpartition(":")
  if not (host and port.isdecimal() and 0 < int(port) < 65536):
    raise UserError(
      f"--coordinator={cluster.coordinator} is not HOST:PORT, such as node001:12345; give the host "
      "of process 0 and any free port there"
    )
  if not 0 <= cluster.process_id < cluster.num_processes:
    raise UserError(
      f"--process-id={cluster.process_id} is out of range for "
      f"--num-processes={cluster.num_processes}; give 0 to {cluster.num_processes - 1}"
    )


@contextlib.contextmanager
def _patience(cluster: Cluster) -> Iterator[None]:
  """Ends the process with exit code 2 if the context lasts longer than `connect_timeout`."""

  def give_up() -> None:
    me = "" if cluster.process_id is None else f"process {cluster.process_id} of "
    count = "the processes" if cluster.num_processes is None else f"{cluster.num_processes}"
    where = f" at {cluster.coordinator}" if cluster.coordinator else ""
    line = (
      f"error: {me}{count} waited {cluster.connect_timeout:g} s for the others{where}, and they "
      "are not all there; start every process, each with its own --process-id and all with the "
      "same --coordinator (process 0's host and a port that the others can reach) and "
      "--num-processes, or wait longer: --connect-timeout=SECONDS"
    )
    output.write_line(line, sys.stderr)
    os._exit(2)

  timer = threading.Timer(cluster.connect_timeout, give_up)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def count() -> int:
  """Returns the number of processes of this run."""
  return _service.global_state.num_processes if jax.distributed.is_initialized() else 1


def index() -> int:
  """Returns the number of this process, from 0."""
  return _service.global_state.process_id if jax.distributed.is_initialized() else 0


def is_main() -> bool:
  """Returns whether this is process 0, which prints and writes for the run."""
  return index() == 0


def gather(text: str) -> list[str]:
  """Returns the texts of all processes, by number. All must make the same calls in one order."""
  if count() == 1:
    return [text]
  client, key = _service.global_state.client, f"hc_jax/{next(_rounds)}"
  client.key_value_set(f"{key}/{index()}", text or " ")
  found = [client.blocking_key_value_get(f"{key}/{i}", _FOREVER) for i in range(count())]
  return [value.strip() for value in found]


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Makes a UserError that one process raises in the context end all processes, with its reason.

  Raises:
    UserError: this process raised it, or another one did; the message then names that process.
  """
  failed = None
  try:
    yield
  except UserError as error:
    failed = error
  reasons = gather("" if failed is None else str(failed))
  if failed is not None:
    raise failed
  for other, reason in enumerate(reasons):
    if reason:
      raise UserError(f"process {other} cannot start: {reason}")


def table() -> list[str]:
  """Returns one line per process (or range of processes): number, host, and devices."""
  devices = jax.local_devices()
  ids = [device.id for device in devices]
  mine = f"{socket.gethostname()} {os.getpid()}|{len(ids)} x {devices[0].device_kind}|"
  rows = gather(mine + f"{min(ids)} to {max(ids)}" if len(ids) > 1 else mine + f"{ids[0]}")
  lines = [("process", "host, pid", "devices", "ids")]
  lines += [(str(i), *row.split("|")) for i, row in enumerate(rows)]
  if len(lines) > 20:
    lines[18:-1] = [("...", "", "", "")]
  return aligned(lines)


def leave_by(error: BaseException) -> None:
  """Ends this process after an error that nobody caught; returns if there is one process.

  The error of a collective whose peer is gone becomes one line and exit code 134. JAX may be
  faster: its coordination service ends the process by SIGABRT (134 in a shell), with its own line.
  """
  if count() == 1:
    return
  reason = str(error).strip().partition("\n")[0]
  if any(words in reason for words in _LOST):
    _end(_say_lost(reason))
  traceback.print_exception(error)
  _end(1)


def leave(code: int) -> None:
  """Disconnects from the other processes at the end of the program; may not return.

  If all processes end in the same way (finished, stopped, refused, diverged), this one waits for
  the others. JAX would otherwise abort them once process 0, which hosts its coordination service,
  is gone. A process that fails alone ends at once, and JAX ends the others with exit code 134.
  """
  if count() == 1:
    return
  if code in _IN_ORDER:
    try:
      jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError as error:
      _end(_say_lost(str(error)))
    return
  if code in _TOGETHER:  # in a thread, because the others may not be ending after all
    thread = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    thread.start()
    thread.join(_WAIT)
  _end(code)


def _say_lost(reason: str) -> int:
  output.write_line(
    f"error: process {index()} lost another process of this run ({reason[:160]}); see that "
    "process's output for the reason, and start all processes again to resume",
    sys.stderr,
  )
  return LOST


def _end(code: int) -> None:
  output.finish()
  os._exit(code)
