"""`hc-jax analyze RUN`: figures, their numbers and a table of every site; or compares two runs."""

import argparse
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hc_jax import folders
from hc_jax.errors import UserError, named

HELP = "Draws a run's loss, connections, layer inputs and gains; or compares two runs."
ANALYZED_TOKENS = 2048  # limited, because all streams of all sites are in memory at once
ABLATED_TOKENS = 512  # limited, because the network runs once for every site and stream


def flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("run", help="the workdir of a run")
  parser.add_argument("--step", type=int, default=None, help="step of the checkpoint (the newest)")
  parser.add_argument(
    "--files",
    action="append",
    default=[],
    metavar="PATH",
    help="a file or folder of text to run the model on (the run's own validation text)",
  )
  parser.add_argument(
    "--data-dir",
    default="",
    metavar="FOLDER",
    help="folder of the prepared text of the run ($HC_JAX_DATA, or ~/.cache/hc_jax)",
  )
  parser.add_argument("--out", default=None, help="folder for the pictures (RUN/analysis)")
  parser.add_argument(
    "--formats", default="png,pdf,svg", help="formats of the pictures, as png,svg (png,pdf,svg)"
  )
  parser.add_argument(
    "--compare",
    default=None,
    metavar="RUN2",
    help="only draw both runs side by side (to RUN/analysis/compare)",
  )


def run(args: argparse.Namespace) -> None:
  from hc_jax import train
  from hc_jax.analysis import ablate_streams, report

  formats = args.formats.split(",")
  if not set(formats) <= {"png", "pdf", "svg"}:
    raise UserError(f"--formats={args.formats} is not known; choose from png,pdf,svg")
  run = train.load_run(args.run, args.step)
  folder = Path(args.out or Path(run.workdir) / "analysis")
  tokens_of = functools.partial(_tokens, files=args.files, data_dir=args.data_dir)
  if args.compare is not None:
    other = train.load_run(args.compare)
    out = _made(folder if args.out else folder / "compare", run.workdir)
    return _compare(run, other, tokens_of, out, formats)
  out, metrics = _made(folder, run.workdir), train.read_metrics(run.workdir)
  sites, tokens, title = _look(run, tokens_of)
  more = [report.loss_part(metrics, title), report.telemetry_part(metrics, title)]
  more = [part for part in more if part is not None]
  left_out = {}
  if max(site.streams.shape[-2] for site in sites.values()) == 1:
    left_out["stream_ablation"] = "there is one stream, and zeroing it would leave nothing"
  else:
    some = tokens[: max(1, ABLATED_TOKENS // tokens.shape[1]), :ABLATED_TOKENS]
    kl = ablate_streams(run.model, run.params, sites, some)
    more.append(report.ablation_part(sites, kl, title, some.size))
  report.write_report(sites, out, title, formats=formats, more=more, left_out=left_out)
  return None


def _made(out: Path, workdir: str) -> Path:
  """Makes the folder for the pictures, without following links inside the run's folder."""
  try:
    inside = os.path.relpath(os.path.abspath(out.expanduser()), workdir)
    if inside.split(os.sep)[0] in (os.curdir, os.pardir):
      out.mkdir(parents=True, exist_ok=True)
    else:
      folders.make_folder(workdir, inside)
  except OSError as error:
    raise UserError(f"cannot write to {out}: {error.strerror}; give another --out") from error
  return out


def _tokens(run: Any, files: Sequence[str], data_dir: str) -> Any:
  from hc_jax import train

  return train.run_tokens(run, files=files, data_dir=data_dir)[0]


def _look(run: Any, tokens_of: Callable[[Any], Any]) -> tuple[Any, Any, str]:
  """Returns the sites of a run on the tokens of `tokens_of(run)`, those tokens, and a title."""
  from hc_jax import data
  from hc_jax.analysis import collect_sites, report

  model, length = run.config.model, run.config.data.length
  title = f"{Path(run.workdir).name}: {{}}, step {run.step:,}"
  rows = max(1, min(8, ANALYZED_TOKENS // length))
  tokens = tokens_of(run)
  with named({"length": "data.length"}):
    batch = data.eval_batches(tokens, length=length, batch_size=rows, num_batches=1)[0]
  sites = collect_sites(run.model, run.params, batch["inputs"])
  name = "hybrid" if model.get("layers") else model.connection.name
  return sites, batch["inputs"], title.format(f"{name}, {report.describe(sites)}")


def _compare(
  run: Any, other: Any, tokens_of: Callable[[Any], Any], out: Path, formats: Sequence[str]
) -> None:
  """Draws both runs side by side; parts that cannot be compared are left out, with the reason."""
  from hc_jax import train
  from hc_jax.analysis import compare, report

  reason = _other_text(run, other)
  # Both runs are analysed on the same text, if they have the same tokenizer and text.
  shared = functools.cache(lambda: tokens_of(run))
  looks, names, titles = [], [], []
  for one in (run, other):
    sites, _, title = _look(one, tokens_of if reason else lambda _: shared())
    parts = [] if sites is None else report.look(sites)[0]
    parts.append(report.loss_part(train.read_metrics(one.workdir)))
    looks.append({part.name: part for part in parts})
    names.append(Path(one.workdir).name)
    titles.append(title)
  if names[0] == names[1]:
    names = [Path(one.workdir).parent.name + "/" + Path(one.workdir).name for one in (run, other)]
  if names[0] == names[1]:
    names = [f"{name} ({i})" for i, name in enumerate(names, 1)]
  parts, skipped = compare.compare_parts(tuple(names), tuple(looks), reason)
  print("\n".join(titles))
  report.write_parts(parts, out, " and ".join(titles), print, formats, skipped)
  for part in parts:
    if part.name == "findings":
      report.print_findings(part.table)
  if not reason:
    _print_losses(names, [look["loss"].table.rows for look in looks])


def _print_losses(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
  """Prints the last validation loss of each run, and that of the last step which both have."""
  found = [{row[0]: row[2] for row in own if row[2] is not None} for own in rows]
  common = max(found[0].keys() & found[1].keys(), default=None)
  print("\nval/loss in nats per token:")
  for name, losses in zip(names, found, strict=True):
    if losses:
      last = max(losses)
      both = "" if common in (None, last) else f", {losses[common]:.4f} at step {common:,}"
      print(f"  {name}: {losses[last]:.4f} at step {last:,}, its last{both}")


def _other_text(run: Any, other: Any) -> str:
  """Returns the reason why the losses of two runs cannot be compared; "" if they can."""
  data = [one.card["data"] for one in (run, other)]
  if data[0]["fingerprint"] == data[1]["fingerprint"]:  # of the text and the tokenizer
    return ""
  if data[0]["tokenizer"] != data[1]["tokenizer"] or data[0]["vocab_size"] != data[1]["vocab_size"]:
    kinds = [f"{d['tokenizer']} ({d['vocab_size']:,} tokens)" for d in data]
    return (
      f"the runs have different tokenizers, {kinds[0]} and {kinds[1]}, so that nats per token "
      "cannot be compared (hc-jax eval gives bits per byte of both on the same --files)"
    )
  texts = [f"{one.config.data.name} {one.card['data']['fingerprint'][:12]}" for one in (run, other)]
  return (
    f"the runs have different texts, {texts[0]} and {texts[1]}, so that their losses cannot be "
    "compared (hc-jax eval gives both on the same --files)"
  )
