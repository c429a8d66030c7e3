"""`hc-jax analyze RUN`: figures, their numbers, and a table of every site."""

import argparse
from pathlib import Path

from hc_jax.errors import UserError

HELP = "Draws what a run learned: loss, connections, what layers see, gains."
ANALYZED_TOKENS = 2048  # all streams of all sites are in memory at once
ABLATED_TOKENS = 512  # the network runs on them once for every site and stream


def flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("run", help="the workdir of a run")
  parser.add_argument("--step", type=int, default=None, help="of the checkpoint (the newest)")
  parser.add_argument("--out", default=None, help="folder for the pictures (RUN/analysis)")
  parser.add_argument(
    "--formats", default="png,pdf,svg", help="of the pictures; each takes its time (png,pdf,svg)"
  )


def run(args: argparse.Namespace) -> None:
  from hc_jax import data, train
  from hc_jax.analysis import ablate_streams, collect_sites, measures, report

  formats = args.formats.split(",")
  if not set(formats) <= {"png", "pdf", "svg"}:
    raise UserError(f"--formats={args.formats} is not of png, pdf and svg, with commas between")
  run = train.load_run(args.run, args.step)
  out = Path(args.out or Path(run.workdir) / "analysis")
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot write to {out}: {error.strerror}; give another --out") from error
  model = run.config.model
  name = "hybrid" if model.get("layers") else model.connection.name
  title = f"{Path(run.workdir).name}: {{}}, step {run.step:,}"
  metrics = train.read_metrics(run.workdir)
  if model.get("block") == "dual":
    title = title.replace("{}", "ResiDual")
    reason = "ResiDual (model.block='dual') has no connections"
    report.write_parts(
      [report.loss_part(metrics, title)], out, title, print, formats, {"other figure": reason}
    )
    return
  config = run.config.data
  text = train.open_text(config)
  rows = max(1, min(8, ANALYZED_TOKENS // config.length))
  batch = data.eval_batches(text.val, length=config.length, batch_size=rows, num_batches=1)[0]
  tokens = batch["inputs"]
  sites = collect_sites(run.model, run.params, tokens)
  title = title.replace("{}", f"{name}, {report.describe(sites)}")
  more = [report.loss_part(metrics, title)]
  if not measures.is_residual(list(sites.values())):  # to zero its one stream says nothing
    some = tokens[: max(1, ABLATED_TOKENS // config.length), :ABLATED_TOKENS]
    kl = ablate_streams(run.model, run.params, sites, some)
    more.append(report.ablation_part(sites, kl, title, some.size))
  report.write_report(sites, out, title, formats=formats, more=more)
