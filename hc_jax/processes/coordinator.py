"""Choice of the address at which process 0 listens for the other processes."""

import errno
import ipaddress
import socket
from typing import Any

from hc_jax.errors import UserError


def listen_address(coordinator: str) -> str:
  """Returns the address at which JAX's coordination service should listen; checks that it is free.

  The service has no authentication, so it listens only at the interface that the host's name
  resolves to. It listens at all interfaces if the name gives none that works: an address of another
  machine (a forwarded one), or the loopback address, which no other host can reach.

  Args:
    coordinator: HOST:PORT.

  Raises:
    UserError: the name is unknown, or the port is in use (for which JAX would end with SIGSEGV).
  """
  host, _, port = coordinator.rpartition(":")
  host = host.strip("[]")
  try:
    family, _, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
  except OSError as error:
    raise UserError(
      f"--coordinator={coordinator}: the host is not known here ({error.strerror}); give its name "
      "or its address"
    ) from error
  number = str(address[0])
  elsewhere = ipaddress.ip_address(number).is_loopback and host not in ("localhost", number)
  if not elsewhere and _is_free(coordinator, family, address):
    return f"[{number}]:{port}" if family == socket.AF_INET6 else f"{number}:{port}"
  _is_free(coordinator, socket.AF_INET, ("", int(port)))
  return f"[::]:{port}"


def _is_free(coordinator: str, family: int, address: Any) -> bool:
  """Returns whether this machine can listen at an address; False if it is another machine's.

  Raises:
    UserError: the port is in use, or this user may not listen at it.
  """
  try:
    with socket.socket(family, socket.SOCK_STREAM) as tried:
      tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # just after another run
      tried.bind(address)
      tried.listen(1)
    return True
  except OSError as error:
    if error.errno == errno.EADDRNOTAVAIL:
      return False
    raise UserError(
      f"process 0 cannot listen at --coordinator={coordinator} ({error.strerror}); choose a port "
      "that is free on this host, the same for all processes"
    ) from error
