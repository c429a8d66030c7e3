"""Several processes of one run: how they find each other, agree, and end.

JAX's own coordination service does it, whose address and numbers come from flags or from a cluster
that JAX knows (SLURM, Open MPI, TPU pods, Kubernetes). Words that all processes must agree on go
through its key-value store, not through the devices: it works before there is a mesh, and waits as
long as one of them prepares data.
"""

import contextlib
import dataclasses
import itertools
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax
from jax._src import distributed as _service  # the key-value store has no public name

from hc_jax.errors import UserError

_FOREVER = 7 * 24 * 3600 * 1000  # milliseconds; a process that dies is noticed by its heartbeat
# How collectives and the coordination service speak of a peer that is gone.
_LOST = ("Gloo", "UNAVAILABLE", "Connection closed by peer", "Connection reset", "heartbeat")
LOST = 134  # exit code: another process of the run died
_IN_ORDER = (0, 75)  # exit codes: finished, and stopped by a signal
# Seconds: for a process that fails to say goodbye, for process 0 to wait for the others' goodbyes,
# and from the last of these, which is sent just before, to that process's end.
_SAY, _WAIT, _GRACE = 3.0, 10.0, 1.0
_GOODBYES = "hc_jax/goodbye"  # where the processes' exit codes stand in the key-value store
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
  num_processes: int | None = None
  process_id: int | None = None
  connect_timeout: float = 300.0
  heartbeat_timeout: float = 100.0


def connect(cluster: Cluster) -> None:
  """Joins the other processes; must come before anything else of JAX.

  When they do not come in time, says so on stderr and ends the process with exit code 2.

  Raises:
    UserError: flags that do not go together, or an address that cannot be used.
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
  with _patience(cluster):
    try:
      jax.distributed.initialize(
        cluster.coordinator,
        cluster.num_processes,
        cluster.process_id,
        # Ours comes first: when JAX's own runs out, it ends the process by SIGABRT.
        initialization_timeout=int(cluster.connect_timeout) + 60,
        heartbeat_timeout_seconds=max(1, int(cluster.heartbeat_timeout)),
        **method,
      )
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


def _check(cluster: Cluster, given: dict[str, object]) -> None:
  if cluster.distributed not in ("auto", "off"):
    raise UserError(f"--distributed={cluster.distributed} is unknown; choose auto or off")
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
      f"--coordinator={cluster.coordinator} is no HOST:PORT, such as node001:12345: the host of "
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
    print(line, file=sys.stderr, flush=True)
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
  """What is the user's to mend in one process ends them all, with its reason.

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
  widths = [max(len(line[i]) for line in lines) for i in range(4)]
  return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def leave_by(error: BaseException) -> None:
  """Parts from the other processes on an error that nobody caught; returns with one process.

  What a collective says when its peer is gone becomes one line, and exit code 134: that is how JAX
  itself ends a process (SIGABRT) whose peers were silent for `heartbeat_timeout`.
  """
  if count() == 1:
    return
  if isinstance(error, SystemExit) and isinstance(error.code, int):
    leave(error.code)
  reason = str(error).strip().partition("\n")[0]
  if any(words in reason for words in _LOST):
    print(
      f"error: {_lost(reason)}; the reason stands in that one's output. Start all of them again to "
      "resume",
      file=sys.stderr,
    )
    leave(LOST)
  traceback.print_exception(error)
  leave(1)


def leave(code: int) -> None:
  """Parts from the other processes at the end of the program; may not return.

  A process that ends in good order waits for the others, and when one of them fails it ends with
  134, too. One that fails says goodbye and ends with its own exit code, and the others notice.
  Only process 0, which hosts JAX's coordination service, first gives them time to say theirs:
  without the service JAX aborts them, maybe before they have told the reason of an end that all
  agree on.
  """
  if count() == 1:
    return
  sys.stdout.flush()
  sys.stderr.flush()
  if code in _IN_ORDER:
    failed = _wait_for_all(code)
    if not failed:
      jax.distributed.shutdown()
      return
    print(f"error: {failed}; start all of them again", file=sys.stderr, flush=True)
    code = LOST
  # In a thread, since a service that is gone or does not answer must not keep this process.
  thread = threading.Thread(target=_goodbye, args=(code,), daemon=True)
  try:
    thread.start()
    thread.join(_SAY if index() else _SAY + _WAIT + _GRACE)
  finally:  # whatever a signal raises meanwhile
    os._exit(code)


def _wait_for_all(code: int) -> str:
  """Says the exit code, waits until all have; what is wrong with another process, if anything."""
  try:
    said = _say(code)
    while len(said) < count() and not _failed(said):
      time.sleep(0.2)
      said = _said()
  except jax.errors.JaxRuntimeError as error:
    return _lost(str(error))
  return "; ".join(
    f"process {i} of this run failed with exit code {c}" for i, c in _failed(said).items()
  )


def _failed(said: dict[str, str]) -> dict[str, str]:
  return {i: code for i, code in said.items() if int(code) not in _IN_ORDER}


def _lost(reason: str) -> str:
  return f"process {index()} lost another process of this run ({reason[:160]})"


def _goodbye(code: int) -> None:
  """Says the exit code; in process 0, returns when all have said theirs, or after `_WAIT`."""
  with contextlib.suppress(Exception):  # the service is gone, or was never met
    said, until = _say(code), time.monotonic() + _WAIT
    while index() == 0 and time.monotonic() < until:
      if len(said) == count():
        time.sleep(_GRACE)
        return
      time.sleep(0.05)
      said = _said()


def _say(code: int) -> dict[str, str]:
  _service.global_state.client.key_value_set(f"{_GOODBYES}/{index()}", str(code), True)
  return _said()


def _said() -> dict[str, str]:
  """The exit codes of the processes that have said theirs, by number."""
  found = _service.global_state.client.key_value_dir_get(_GOODBYES)
  return {key.rpartition("/")[2]: code for key, code in found}
