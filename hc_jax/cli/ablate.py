"""`hc-jax ablate CONFIG`: trains paired runs of several connections, and writes a report."""

import argparse
import os
from collections.abc import Sequence

from hc_jax.errors import UserError

HELP = "Trains a sweep of connections, paired by seed, and reports differences and costs."


def flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "config",
    help="a file with get_sweep(), or a name such as ablations/quick; overrides of its base, "
    "--config.a.b=value, may follow",
  )
  parser.add_argument("--out", default=None, help="folder of the sweep (runs/ablate-CONFIG)")
  parser.add_argument("--seeds", default=None, help="seeds of each arm, as 0,1,2 (the file's)")
  parser.add_argument(
    "--arms", default=None, help="train only these arms and the baseline, as a,b (all)"
  )
  parser.add_argument(
    "--learning-rates",
    default=None,
    help="train each arm at each of these rates, as 1e-3,2e-3 (the file's)",
  )
  parser.add_argument(
    "--shard", default="1/1", metavar="i/N", help="train every N-th arm, from the i-th on (1/1)"
  )
  parser.add_argument(
    "--one-by-one",
    action="store_true",
    default=None,
    help="train seeds one after the other, each as an ordinary run that stays in the folder",
  )
  parser.add_argument(
    "--report-only", action="store_true", help="train nothing; report on the finished arms"
  )


def run_config(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  stem = os.path.splitext(os.path.basename(args.config))[0]
  out = args.out or os.path.join("runs", f"ablate-{stem}")
  shard = _shard(args.shard)
  from hc_jax.ablate.running.runner import finish, run_sweep
  from hc_jax.ablate.sweep import load_sweep
  from hc_jax.runs.quiet import hide_aftermath

  hide_aftermath()
  if args.report_only:
    _say_missing(finish(os.path.abspath(os.path.expanduser(out))))
    return 0
  sweep = load_sweep(
    args.config,
    overrides,
    seeds=_numbers(args.seeds, int, "--seeds"),
    learning_rates=_numbers(args.learning_rates, float, "--learning-rates"),
    arms=None if args.arms is None else args.arms.split(","),
    one_by_one=args.one_by_one,
  )
  _say_missing(run_sweep(sweep, out, shard=shard))
  return 0


def _say_missing(missing: Sequence) -> None:
  if missing:
    names = ", ".join(group.id for group in missing)
    print(f"not finished yet: {names}; the report will be written again when they are")


def _shard(text: str) -> tuple[int, int]:
  try:
    index, count = map(int, text.split("/"))
  except ValueError:
    index, count = 0, 0
  if not 1 <= index <= count:
    raise UserError(f"--shard={text} is not i/N with 1 <= i <= N; write 1/4 for the first of four")
  return index, count


def _numbers(text: str | None, kind: type, flag: str) -> tuple | None:
  try:
    return None if text is None else tuple(kind(part) for part in text.split(","))
  except ValueError as error:
    raise UserError(f"{flag}={text} is not a list of numbers; put commas between them") from error
