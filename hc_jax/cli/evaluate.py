"""`hc-jax eval RUN`: evaluates a run on its validation text, other text, or a task's batches."""

import argparse
import sys
import traceback
from typing import Any

from hc_jax import user_modules
from hc_jax.errors import UserError

HELP = "Prints loss, perplexity and bits per byte of a run, on its own or any text."
# Attributes of the flags that choose text, which --task excludes.
_TEXT = ("files", "field", "data_dir", "split", "batches", "batch_size")


def flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("run", help="the workdir of a run")
  parser.add_argument(
    "--files",
    action="append",
    default=[],
    metavar="PATH",
    help="a file or folder of text to read; may be repeated (the run's own validation text)",
  )
  parser.add_argument(
    "--field", default=None, help="field of a JSON record that has the text (the run's data.field)"
  )
  parser.add_argument(
    "--data-dir",
    default="",
    metavar="FOLDER",
    help="folder of the prepared text of the run ($HC_JAX_DATA, or ~/.cache/hc_jax)",
  )
  parser.add_argument(
    "--split", default=None, help="split of the run's own text, val or train (val)"
  )
  parser.add_argument(
    "--task",
    default="",
    metavar="MODULE:FUNCTION",
    help="your function that returns the Task, for a run of your own task",
  )
  parser.add_argument(
    "--step", type=_step, default=None, help="step of the checkpoint, or best (the newest)"
  )
  parser.add_argument(
    "--batches", type=int, default=None, help="largest number of batches of train.batch_size (all)"
  )
  parser.add_argument(
    "--batch-size", type=int, default=None, help="windows computed at once (the trainer's)"
  )


def run(args: argparse.Namespace) -> None:
  from hc_jax import train

  if args.task:
    _evaluate_task(args)
    return
  run = train.load_run(args.run, args.step)
  print(f"{run.workdir}, step {run.step}", file=sys.stderr)
  found = train.evaluate_run(
    run,
    files=args.files,
    field=args.field,
    split=args.split,
    data_dir=args.data_dir,
    batches=args.batches,
    batch_size=args.batch_size,
  )
  print(f"{found.text}: {found.tokens:,} tokens of {found.documents:,} documents")
  print(f"{'loss':<15}{found.loss:.6f} nats per token")
  print(f"{'perplexity':<15}{found.perplexity:.6g}")
  bits = (
    "undefined (tokens are not text)"
    if found.bits_per_byte is None
    else f"{found.bits_per_byte:.6f}"
  )
  print(f"{'bits per byte':<15}{bits}")


def _evaluate_task(args: argparse.Namespace) -> None:
  from hc_jax import train

  if given := [name for name in _TEXT if getattr(args, name)]:
    flag = given[0].replace("_", "-")
    raise UserError(f"--{flag} chooses text, but --task brings its own batches; give only one")
  run = train.load_task_run(args.run, _make_task(args.task), args.step)
  print(f"{run.workdir}, step {run.step}", file=sys.stderr)
  for name, value in train.evaluate_task(run).items():
    print(f"{name:<15}{value:.6g}")


def _make_task(spec: str) -> Any:
  """Calls the user's function `module:function` and returns its task.

  Raises:
    UserError: if the function is missing, fails, or returns something else.
  """
  from hc_jax import train

  function = user_modules.find("--task", spec)
  if not callable(function):
    raise UserError(f"--task={spec} is not a function; name one that returns a hc_jax.train.Task")
  try:
    task = function()
  except UserError:
    raise
  except Exception as error:  # because the user's program may raise anything
    where = traceback.extract_tb(error.__traceback__)[-1]
    raise UserError(
      f"--task={spec} failed at {where.filename}:{where.lineno}: {type(error).__name__}: {error}"
    ) from error
  if not isinstance(task, train.Task):
    raise UserError(
      f"--task={spec} returns {type(task).__name__}; it must return a hc_jax.train.Task"
    )
  return task


def _step(text: str) -> int | str:
  return text if text == "best" else int(text)
