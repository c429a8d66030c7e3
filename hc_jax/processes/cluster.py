"""Several processes of one run: how they find each other, agree, and end.

JAX's own coordination service does it, whose address and numbers come from flags or from a cluster
that JAX knows (SLURM, Open MPI, TPU pods, Kubernetes). Words that all processes must agree on go
through its key-value store, not through the devices: it works before there is a mesh, and waits as
long as one of them prepares data.
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
_FOREVER = _LONGEST * 1000  # milliseconds; a process that dies is noticed by its heartbeat
# How collectives and the coordination service speak of a peer that is gone.
_LOST = ("Gloo", "UNAVAILABLE", "Connection closed by peer", "Connection reset", "heartbeat")
LOST = 134  # exit code: another process of the run died; JAX itself ends with SIGABRT, the same
_IN_ORDER = (0, 75)  # exit codes: finished, and stopped by a signal
_TOGETHER = (*_IN_ORDER, 2, 3)  # exit codes that all processes end with, or none
_WAIT = 10.0  # seconds for the others to fail as well
_DAY = 24 * 3600
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
_rounds = itertools.count()


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Where the processes of a run meet.

  Attributes:
    distributed: "auto": explicit numbers, or those of a cluster that JAX detects, or one process;
      "off": one process.
    coordinator: HOST:PORT that process 0 listens at; None: to be detected.
    num_processes: how many there are; None: to be detected.
    process_id: of this one, from 0; None: to be detected.
    connect_timeout: seconds to wait for the others at the start.
    heartbeat_timeout: seconds of silence after which a process counts as dead.
  """

  distributed: str = "auto"
  coordinator: str | None = None
  num_processes: int | None = field(None, least=1)
  process_id: int | None = field(None, least=0)
  connect_timeout: float = field(300.0, above=0, most=_LONGEST)
  heartbeat_timeout: float = field(100.0, least=1, most=_LONGEST)


def connect(cluster: Cluster) -> None:
  """Joins the other processes; must come before anything else of JAX.

  When they do not come in time, says so on stderr and ends the process with exit code 2.

  Raises:
    UserError: flags that do not go together, an address that cannot be used, or processes that
      differ in their number, packages or precision.
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
    return  # alone; joined, it would be given one device of its host
  # Its handler of SIGTERM would take the place of ours (see agreement.py).
  jax.config.update("jax_enable_preemption_service", False)
  # Numbers that are all given leave nothing to detect, nor local devices to choose.
  method = {"cluster_detection_method": "deactivate"} if explicit else {}
  if explicit and cluster.process_id == 0:
    method["coordinator_bind_address"] = listen_address(cluster.coordinator)
  with _patience(cluster):
    try:
      jax.distributed.initialize(
        cluster.coordinator,
        cluster.num_processes,
        cluster.process_id,
        # Ours comes first: when JAX's own runs out, it ends the process by SIGABRT.
        initialization_timeout=int(cluster.connect_timeout) + 60,
        heartbeat_timeout_seconds=max(1, int(cluster.heartbeat_timeout)),
        shutdown_timeout_seconds=_DAY,  # those that are done wait for those that still save
        **method,
      )
      _compare()
    except ValueError as error:
      if explicit or "coordinator_address" not in str(error):
        raise
      return  # no cluster: one process
    except (RuntimeError, OSError) as error:
      if not explicit and "must be called before" in str(error):
        return  # called from a program that uses JAX already, by itself: a notebook, a test
      reason = str(error).strip().splitlines()[0]
      raise UserError(
        f"the processes of this run cannot meet at {cluster.coordinator or 'the cluster'}: "
        f"{reason}; is the port free and the host's name right? Or run one process: "
        "--distributed=off"
      ) from error


def _compare() -> None:
  """Refuses processes that would not compute the same; JAX aborts such a run without the reason.

  Raises:
    UserError: this process differs from process 0, or process 0 from another.
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
    raise UserError(f"{there[0]} does nothing with --distributed=off; leave one of them out")
  if there and missing:
    raise UserError(f"{there[0]} needs {' and '.join(missing)} as well")
  if not there:
    return
  host, _, port = cluster.coordinator.rpartition(":")
  if not (host and port.isdecimal() and 0 < int(port) < 65536):
    raise UserError(
      f"--coordinator={cluster.coordinator} is not HOST:PORT, such as node001:12345: the host of "
      "process 0, and any free port of it"
    )
  if not 0 <= cluster.process_id < cluster.num_processes:
    raise UserError(
      f"--process-id={cluster.process_id} of --num-processes={cluster.num_processes}: it counts "
      f"from 0 to {cluster.num_processes - 1}"
    )


@contextlib.contextmanager
def _patience(cluster: Cluster) -> Iterator[None]:
  """Ends the process with exit code 2 when what is inside takes longer than `connect_timeout`."""

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
  """How many processes this run has."""
  return _service.global_state.num_processes if jax.distributed.is_initialized() else 1


def index() -> int:
  """This process's number, from 0."""
  return _service.global_state.process_id if jax.distributed.is_initialized() else 0


def is_main() -> bool:
  """Whether this is the process that speaks and writes: the one of number 0."""
  return index() == 0


def gather(text: str) -> list[str]:
  """Every process's text, by number; all processes must come here, in the same order of calls."""
  if count() == 1:
    return [text]
  client, key = _service.global_state.client, f"hc_jax/{next(_rounds)}"
  client.key_value_set(f"{key}/{index()}", text or " ")
  found = [client.blocking_key_value_get(f"{key}/{i}", _FOREVER) for i in range(count())]
  return [value.strip() for value in found]


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Raises a UserError of one process in all of them, with its reason.

  Raises:
    UserError: of this process, or naming the other process and its reason.
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
  """Lines that say which process runs where, and which devices it has."""
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
  """Parts from the other processes on an error that nobody caught; returns with one process.

  The error of a collective whose peer is gone becomes one line and exit code 134. JAX may be first:
  its coordination service ends the process by SIGABRT (134 in a shell), with a line of its own.
  """
  if count() == 1:
    return
  reason = str(error).strip().partition("\n")[0]
  if any(words in reason for words in _LOST):
    _end(_say_lost(reason))
  traceback.print_exception(error)
  _end(1)


def leave(code: int) -> None:
  """Parts from the other processes at the end of the program; may not return.

  An end that all share (finished, stopped, refused, diverged) waits for the others, since JAX
  aborts every process once process 0, which hosts its coordination service, is gone. A process that
  fails alone ends at once, and JAX ends the others with exit code 134.
  """
  if count() == 1:
    return
  if code in _IN_ORDER:
    try:
      jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError as error:
      _end(_say_lost(str(error)))
    return
  if code in _TOGETHER:  # in a thread: perhaps this process alone was refused
    thread = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    thread.start()
    thread.join(_WAIT)
  _end(code)


def _say_lost(reason: str) -> int:
  output.write_line(
    f"error: process {index()} lost another process of this run ({reason[:160]}); the reason is in "
    "that one's output. Start all of them again to resume",
    sys.stderr,
  )
  return LOST


def _end(code: int) -> None:
  output.finish()
  os._exit(code)
