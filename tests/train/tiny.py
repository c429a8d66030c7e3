"""A run small enough for tests: two layers, 16 wide, on text from Python's standard library.

As a program, it is train.py on that text: `python tiny.py WORKDIR [--config.a.b=v ...]`. The text
is not prepared; tests/data covers preparation.
"""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import argparse as _source  # noqa: E402  (a module whose file serves as text)
import contextlib  # noqa: E402
import functools  # noqa: E402
import signal  # noqa: E402

import numpy as np  # noqa: E402

CONFIG = str(ROOT / "configs" / "quickstart.py")
FLAGS = {
  "model.d_model": 16,
  "model.num_layers": 2,
  "model.num_heads": 2,
  "model.max_length": 32,
  "model.scan": True,
  "model.connection.num_streams": 2,
  "model.dropout": 0.1,
  "data.length": 32,
  "data.workers": 1,
  # This rate does not depend on the number of steps, so that one compilation serves all tests.
  "optim.schedule": "constant",
  "optim.learning_rate": 1e-2,
  "optim.warmup_steps": 2,
  "train.num_steps": 20,
  "train.batch_size": 8,
  "train.log_every": 1,
  "train.eval_every": 10,
  "train.eval_batches": 2,
  "train.checkpoint_every": 10,
  "train.compilation_cache": "",
  "train.telemetry_every": 0,  # saves compiling one more program; test_telemetry.py has it on
}


def config(**changes):
  """Returns the tiny config with changes, whose names have `__` for dots."""
  from hc_jax.config import load_config

  flags = FLAGS | {key.replace("__", "."): value for key, value in changes.items()}
  return load_config(CONFIG, [f"--config.{key}={value}" for key, value in flags.items()])


def description(config):
  """Returns the description of a config's run."""
  from hc_jax.config import to_json
  from hc_jax.runs.workdir import LANGUAGE_MODEL, Description

  return Description(LANGUAGE_MODEL, to_json(config))


def start(workdir, fork=None, **changes):
  """Trains the tiny config in this process."""
  from hc_jax.train import train_and_evaluate

  return train_and_evaluate(config(**changes), str(workdir), fork)


def text(name="py_stdlib", *, fingerprint="tiny", **_):
  """Returns one module of the standard library as bytes, in the form of `hc_jax.data.load_text`."""
  from hc_jax import data

  tokenizer = data.load_tokenizer("bytes")
  raw = pathlib.Path(_source.__file__).read_bytes()
  ids = np.concatenate([[tokenizer.bos_id], np.frombuffer(raw, np.uint8)]).astype(np.uint16)
  cut = len(ids) * 9 // 10

  def tokens(part, split):
    offsets = np.array([0, len(part)], np.int64)
    return data.TokenArray(part, offsets, len(part), split)

  return data.TextData(
    tokenizer, fingerprint, tokens(ids[:cut], "train"), tokens(ids[cut:], "val"), "", {}
  )


@contextlib.contextmanager
def tiny_text(**changes):
  """Makes `hc_jax.data.load_text` return the tiny text during the context."""
  from hc_jax import data

  original, data.load_text = data.load_text, functools.partial(text, **changes)
  try:
    yield
  finally:
    data.load_text = original


def main(argv):
  """Runs train.py on the tiny text; TINY_SIGNAL=NAME:STEP sends a signal once STEP is logged."""
  import train as command
  from tests import environment
  from tests.train import line

  environment.keep_compiled_code()
  environment.compile_cheaply()
  flags = [f"--config.{key}={value}" for key, value in FLAGS.items()]
  with tiny_text():
    if "TINY_SIGNAL" in os.environ:
      name, step = os.environ["TINY_SIGNAL"].split(":")
      line.send_at(getattr(signal, name), int(step))
    return command.main([f"--config={CONFIG}", f"--workdir={argv[0]}", *flags, *argv[1:]])


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
