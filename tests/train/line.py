"""A user's task that compiles quickly: a line through noisy points.

As a program: `python line.py WORKDIR [--signal=KILL:13] [--num_steps=30 ...]`, with settings as
flags. The signal is sent once that step is logged.
"""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import ast  # noqa: E402
import dataclasses  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from hc_jax import sharding, train  # noqa: E402

SLOPES = np.array([1.0, -2.0, 0.5], np.float32)
ROWS = 8
SETTINGS = {
  "num_steps": 20,
  "log_every": 1,
  "eval_every": 10,
  "checkpoint_every": 10,
  "compilation_cache": "",
}


class Batches:
  """Batches of points, as a tree with several levels and types; finite if `count` is given."""

  def __init__(self, seed, rows=ROWS, count=None):
    self.seed, self.rows, self.count = seed, rows, count

  def __len__(self):
    return 2**40 if self.count is None else self.count

  def __getitem__(self, s):
    if not 0 <= s < len(self):
      raise IndexError(s)
    rng = np.random.default_rng((self.seed, s))
    x = rng.normal(size=(self.rows, 3)).astype(np.float32)
    y = x @ SLOPES + 0.1 * rng.normal(size=self.rows).astype(np.float32)
    ids = np.arange(self.rows, dtype=np.int32) + s * self.rows
    return {"x": x, "of": {"y": y.astype(np.float32), "row": (ids, ids % 3 > 0)}}


def init(key):
  """Returns slopes to train, and a carried collection: number of rows seen, and their mean."""
  return {
    "params": {"slopes": jax.random.normal(key, (3,))},
    "seen": {"rows": jnp.int32(0), "mean": jnp.zeros(3)},
  }


def errors(variables, batch):
  """Returns squared errors `[rows]`; rows that do not count give 0."""
  (_, counts), y = batch["of"]["row"], batch["of"]["y"]
  found = jnp.square(batch["x"] @ variables["params"]["slopes"] - y)
  return jnp.where(counts, found, 0)


def weight(batch):
  return jnp.sum(batch["of"]["row"][1]).astype(jnp.float32)


def make_loss(noise):
  """Returns the loss of `task`, which uses each of its arguments: variables, batch and key."""

  def loss(variables, batch, key):
    seen = variables["seen"]
    x = batch["x"] + noise * jax.random.normal(key, batch["x"].shape)
    found = errors(variables, {**batch, "x": x})
    after = {
      "rows": seen["rows"] + len(found),
      "mean": 0.9 * seen["mean"] + 0.1 * jnp.mean(batch["x"], axis=0),
    }
    off = jnp.sum(jnp.sqrt(found))
    return train.Loss(jnp.sum(found), metrics={"off": off}, collections={"seen": after})

  return loss


def evaluate(variables, batch):
  return {"error": jnp.sum(errors(variables, batch)), "rows": weight(batch)}


def summarise(sums):
  return {"val/loss": sums["error"] / sums["rows"], "val/rows": sums["rows"]}


def task(noise=0.1, **changes):
  """Returns the task; `changes` replace fields."""
  fields = {
    "name": "line",
    "init": init,
    "loss": make_loss(noise),
    "weight": weight,
    "train": Batches,
    "val": [Batches(10**6)[s] for s in range(2)],
    "evaluate": evaluate,
    "summarise": summarise,
    "identity": {"slopes": SLOPES.tolist()},
    "unit": "points",
    "units_per_step": ROWS,
  }
  return train.Task(**fields | changes)


def recipe():
  """Returns Adam with a rate that falls to the end of the run."""
  return train.Recipe(make=optax.adam, rate=lambda step, end: 0.05 * (1 - step / end))


def constant():
  """Returns Adam with a rate that does not depend on the run's length."""
  return train.Recipe(make=optax.adam, rate=lambda step, end: 0.05)


def settings(**changes):
  return train.Settings(**SETTINGS | changes)


def start(workdir, of=None, optimizer=None, *, seed=0, devices=1, fork=None, facts=None, **changes):
  """Trains the task in this process, on `devices` devices; `changes` are settings."""
  mesh = sharding.make_mesh("dp", devices=jax.devices()[:devices])
  return train.train(
    of or task(),
    optimizer or constant(),
    settings(**changes),
    str(workdir),
    seed=seed,
    mesh=mesh,
    fork=fork,
    facts=facts,
  )


def send_at(number, step):
  """Sends this process a signal once the row of `step` is written."""
  from hc_jax.runs import metrics

  for kind in (metrics.Metrics, metrics.NoMetrics):
    _send_in(kind, number, step)


def _send_in(kind, number, step):
  write = kind.write

  def sending(self, row):
    write(self, row)
    if row["step"] == step:
      due = pathlib.Path(sys.argv[1], "checkpoints", str(step - step % 10), "manifest.json")
      while number == signal.SIGKILL and step > 10 and not due.exists():
        time.sleep(0.01)  # waits for the background save; another test kills during one
      os.kill(os.getpid(), number)
      time.sleep(0.2)

  kind.write = sending


def main(argv):
  """Trains as `hc-jax train` does, with the same errors and exit codes."""
  from hc_jax.cli import failures
  from hc_jax.processes import signals
  from tests import environment

  environment.keep_compiled_code()
  flags = dict(flag.removeprefix("--").split("=", 1) for flag in argv[1:])
  if "signal" in flags:
    name, step = flags.pop("signal").split(":")
    send_at(getattr(signal, f"SIG{name}"), int(step))
  kinds = {field.name: field.type for field in dataclasses.fields(train.Settings)}
  changes = {k: v if kinds[k] is str else ast.literal_eval(v) for k, v in flags.items()}
  with signals.Ending():
    try:
      start(argv[0], **changes)
      return 0
    except Exception as error:
      return failures.say(error)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
