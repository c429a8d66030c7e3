"""`hc-jax eval RUN`: how well a run predicts its validation text, or any other."""

import argparse
import sys

HELP = "Loss, perplexity and bits per byte of a run, on its own or any text."


def flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("run", help="the workdir of a run")
  parser.add_argument(
    "--files",
    action="append",
    default=[],
    metavar="PATH",
    help="a file or folder of text to read; may be repeated (the run's own validation text)",
  )
  parser.add_argument("--field", default=None, help="of a record in them (the run's data.field)")
  parser.add_argument(
    "--data-dir",
    default="",
    metavar="FOLDER",
    help="in which the run's text was prepared ($HC_JAX_DATA, or ~/.cache/hc_jax)",
  )
  parser.add_argument("--split", default=None, help="of the run's own text: val or train (val)")
  parser.add_argument("--step", type=_step, default=None, help="of the checkpoint (the newest)")
  parser.add_argument(
    "--batches", type=int, default=None, help="at most, of the run's train.batch_size (all)"
  )
  parser.add_argument(
    "--batch-size", type=int, default=None, help="windows at a time (the trainer's)"
  )


def run(args: argparse.Namespace) -> None:
  from hc_jax import train

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
  bits = "no token stands for text" if found.bits_per_byte is None else f"{found.bits_per_byte:.6f}"
  print(f"{'bits per byte':<15}{bits}")


def _step(text: str) -> int | str:
  return text if text == "best" else int(text)
