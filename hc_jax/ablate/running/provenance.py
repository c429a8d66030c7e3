"""Provenance of a result: code, machine, time, and the load of the machine."""

import contextlib
import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

ROOT = Path(__file__).resolve().parents[3]


def now() -> str:
  """Returns the time in UTC, to the minute."""
  return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def commit() -> str:
  """Returns the commit of this code, with "+" if files were changed; "" outside a checkout."""

  def git(*args: str) -> str:
    command = ["git", "-C", str(ROOT), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else ""

  with contextlib.suppress(OSError, subprocess.TimeoutExpired):
    if Path(git("rev-parse", "--show-toplevel") or "/").resolve() == ROOT:
      return git("rev-parse", "--short=12", "HEAD") + "+" * bool(
        git("status", "--porcelain", "-uno")
      )
  return ""


def cores() -> int:
  """Returns the number of processor cores that this process may use."""
  with contextlib.suppress(AttributeError):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def machine(device: jax.Device) -> str:
  """Returns a short description of the machine."""
  count = f"{cores()} CPU cores"
  if device.platform == "cpu":
    return count
  return f"{device.device_kind} ({device.platform}), {count}"


def provenance(started: str, device: jax.Device) -> dict[str, Any]:
  """Returns the provenance of a result that is finished now, as JSON values.

  Args:
    started: time when the computation started, from `now`.
    device: device that computed the result.
  """
  load = os.getloadavg()[2] if hasattr(os, "getloadavg") else None
  return {
    "started": started,
    "finished": now(),
    "commit": commit(),
    "machine": machine(device),
    "cores": cores(),
    "platform": device.platform,
    "load": load,  # mean number of running or waiting processes over the last 15 minutes
    "jax": jax.__version__,
    "python": platform.python_version(),
  }


def command() -> str:
  """Returns the command line as a user would type it."""
  name = Path(sys.argv[0]).name
  words = ["hc-jax" if name in ("__main__.py", "hc-jax") else name, *sys.argv[1:]]
  return " ".join(words)
