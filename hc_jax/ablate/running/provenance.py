"""Where a result comes from: code, machine, time, and how busy the machine was."""

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
  """The time, in UTC, to the minute."""
  return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def commit() -> str:
  """The commit that this code is of, "+" behind it if files differ; "" outside of a checkout."""

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
  """Processor cores that this process may use."""
  with contextlib.suppress(AttributeError):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def machine(device: jax.Device) -> str:
  """The machine in words."""
  count = f"{cores()} CPU cores"
  if device.platform == "cpu":
    return count
  return f"{device.device_kind} ({device.platform}), {count}"


def provenance(started: str, device: jax.Device) -> dict[str, Any]:
  """Of a result that is finished now.

  Args:
    started: of `now`, when it began.
    device: that it was computed on.
  """
  load = os.getloadavg()[2] if hasattr(os, "getloadavg") else None
  return {
    "started": started,
    "finished": now(),
    "commit": commit(),
    "machine": machine(device),
    "cores": cores(),
    "platform": device.platform,
    "load": load,  # processes that ran or wanted to, over the last 15 minutes
    "jax": jax.__version__,
    "python": platform.python_version(),
  }


def command() -> str:
  """The command line, as it would be typed."""
  name = Path(sys.argv[0]).name
  words = ["hc-jax" if name in ("__main__.py", "hc-jax") else name, *sys.argv[1:]]
  return " ".join(words)
