"""All that is looked at in a model: figures, their numbers, and what the numbers mean."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hc_jax.analysis import measures, plots, spectra, unfold
from hc_jax.analysis.collect import Site, token_mean
from hc_jax.analysis.similarity import adjacent_similarity
from hc_jax.analysis.tables import Table, matrix_rows

MAX_UNFOLDED, SHOWN_TOKENS = 256, 4  # tokens
UNFOLDING_HOLDS = 0.1  # relative error of rebuilt inputs; bfloat16 streams have some per cent


@dataclasses.dataclass(frozen=True)
class Part:
  """One figure and its numbers."""

  name: str
  draw: Callable[[], Any]
  table: Table


def describe(sites: Mapping[str, Site]) -> str:
  """`n = 4, dynamic`: what the maps themselves say of a network's connections."""
  found = list(sites.values())
  counts = sorted({site.streams.shape[-2] for site in found})
  parts = sorted({site.coefs.write.shape[-1] for site in found})
  text = f"n = {', '.join(map(str, counts))}"
  if parts != [1]:
    text += f", m = {', '.join(map(str, parts))}"
  if measures.is_residual(found):
    return "plain residual"
  return f"{text}, {'dynamic' if measures.is_dynamic(found) else 'static'}"


def write_report(
  sites: Mapping[str, Site],
  out: str | os.PathLike,
  title: str = "",
  log: Callable[[str], None] = print,
  formats: Sequence[str] = plots.FORMATS,
) -> list[str]:
  """Draws and tabulates everything that can be said of what `collect_sites` gave.

  Args:
    sites: of any model.
    out: a folder; each figure lies there in every format and its numbers as CSV.
    title: above every figure.
    log: gets the tables, the definitions, a line for each file, and why something is left out.
    formats: of "png", "pdf" and "svg".

  Returns:
    Paths of the files.
  """
  Path(out).mkdir(parents=True, exist_ok=True)
  parts, skipped = look(sites, title)
  written = []
  for part in parts:
    written += write_part(part, out, log, formats)
  for name, reason in skipped.items():
    log(f"no {name}: {reason}")
  _print_tables(sites, {part.name: part.table for part in parts}, log)
  return written


def write_part(
  part: Part,
  out: str | os.PathLike,
  log: Callable[[str], None] = print,
  formats: Sequence[str] = plots.FORMATS,
) -> list[str]:
  """Writes `out/name.png`, `.pdf`, `.svg` and `.csv`; returns the paths."""
  stem = Path(out) / part.name
  paths = [*plots.save(part.draw(), stem, formats), f"{stem}.csv"]
  part.table.write_csv(paths[-1])
  log(f"wrote {paths[0]}" + "".join(f", .{kind}" for kind in (*formats[1:], "csv")))
  return paths


def loss_part(rows: Sequence[Mapping[str, Any]], title: str = "") -> Part:
  """The loss curve of rows of metrics.jsonl."""
  columns = ("step", "train/loss", "val/loss", "val/bpb")
  table = [[row.get(c) for c in columns] for row in rows if any(c in row for c in columns[1:])]
  return Part("loss", lambda: plots.loss_curve(rows, title), Table(columns, table))


def look(sites: Mapping[str, Site], title: str = "") -> tuple[list[Part], dict[str, str]]:
  """The parts of a report, nothing drawn yet, and what is left out with the reason."""
  names, found = list(sites), list(sites.values())
  tokens = int(np.prod(found[0].streams.shape[:-2]))
  over = f"{title}, {tokens:,} tokens"
  parts, skipped = [], {}
  if len(found) > 1:
    parts.append(_similarity(names, found, over))
  if measures.is_residual(found):
    reason = "every site is x + F(x): one stream, all weights one"
    return parts, dict.fromkeys(("connections", "weights", "gains", "streams", "unfolded"), reason)
  parts.append(_connections(sites, f"{over} (mean)"))
  if measures.is_dynamic(found):
    parts.append(_weights(sites, over))
  else:
    skipped["weights"] = "the maps are static: they do not vary over tokens"
  measured = measures.measure(found)
  parts.append(_gains(names, measured, f"{over} (mean)"))
  if max(site.streams.shape[-2] for site in found) > 1:
    parts.append(_streams(names, measured, over))
  else:
    skipped["streams"] = "there is one stream"
  try:
    parts += _unfolded(found, title, skipped)
  except ValueError as error:
    skipped["unfolded"] = str(error)
  return parts, skipped


def _similarity(names: list[str], sites: list[Site], title: str) -> Part:
  values = adjacent_similarity([measures.layer_input(site) for site in sites])
  rows = [(*pair, *v) for *pair, v in zip(names[1:], names, values, strict=False)]
  table = Table(("site", "site before", "p5", "median", "p95"), rows)
  title = f"{title}\nsimilarity of adjacent layer inputs"
  return Part("similarity", lambda: plots.similarity(names, values, title), table)


def _connections(sites: Mapping[str, Site], title: str) -> Part:
  means = {name: token_mean(site.coefs) for name, site in sites.items()}
  rows = []
  for name, c in means.items():
    for kind in ("read", "write", "mix"):
      rows += matrix_rows(getattr(c, kind), name, kind)
  table = Table(("site", "map", "row", "column", "mean"), rows)
  return Part("connections", lambda: plots.connection_weights(means, title), table)


def _weights(sites: Mapping[str, Site], title: str) -> Part:
  columns = ("site", "map", "row", "column", "mean", "variance", "p5", "p25", "median")
  rows = []
  for name, site in sites.items():
    for kind in ("read", "write", "mix"):
      x = getattr(site.coefs, kind)
      if x is None:
        continue
      x = np.asarray(x, np.float64).reshape(-1, *x.shape[-2:])
      stats = [x.mean(0), x.var(0), *np.percentile(x, (5, 25, 50, 75, 95), axis=0)]
      for i, j in np.ndindex(x.shape[1:]):
        rows.append((name, kind, i, j, *(s[i, j] for s in stats)))
  coefs = {name: site.coefs for name, site in sites.items()}
  title = f"{title}\nweights: median, 5th to 95th percentile"
  table = Table((*columns, "p75", "p95"), rows)
  return Part("weights", lambda: plots.weight_distributions(coefs, title), table)


def _gains(names: list[str], measured: list[dict], title: str) -> Part:
  most = max(m["sigma"].shape[-1] for m in measured)
  heads = [f"{head}sigma_{i + 1}" for head in ("", "composite_") for i in range(most)]
  columns = ["site", *(f"{k}_{how}" for k in measures.GAINS for how in ("mean", "max")), *heads]
  rows = []
  for name, m in zip(names, measured, strict=True):
    row = [name, *(f(m[k]) for k in measures.GAINS for f in (_mean, np.max))]
    for head in ("", "composite_"):
      sigma = m[f"{head}sigma"]
      row += [_mean(sigma[..., i]) if i < sigma.shape[-1] else None for i in range(most)]
    rows.append(row)
  return Part("gains", lambda: plots.gains(names, measured, title), Table(columns, rows))


def _streams(names: list[str], measured: list[dict], title: str) -> Part:
  most = max(m["energy"].shape[-1] for m in measured)
  columns = ["site", *measures.STREAMS, *(f"energy_share_{i}" for i in range(most))]
  columns += ["stream_cosine_p5", "stream_cosine_median", "stream_cosine_p95"]
  rows = []
  for name, m in zip(names, measured, strict=True):
    energy, cosine = m["energy"], m["stream_cosine"]
    row = [name, *(_mean(m[k]) for k in measures.STREAMS)]
    row += [_mean(energy[..., i]) if i < energy.shape[-1] else None for i in range(most)]
    known = cosine[np.isfinite(cosine)]
    row += list(np.percentile(known, (5, 50, 95))) if known.size else [None] * 3
    rows.append(row)
  return Part("streams", lambda: plots.streams(names, measured, title), Table(columns, rows))


def _unfolded(sites: list[Site], title: str, skipped: dict[str, str]) -> list[Part]:
  """C(0) beside the baselines, and C(1..n); raises ValueError where they do not hold."""
  few = measures.some_tokens(sites, MAX_UNFOLDED)
  error = measures.unfolding_error(few)
  if not error < UNFOLDING_HOLDS:
    raise ValueError(
      f"layer inputs rebuilt from the matrices are off by {error:.2g} (relative): something lies "
      "between the sites, such as a norm on the streams (model.norm_position='post')"
    )
  coefs = [site.coefs for site in few]
  n, m = coefs[-1].write.shape[-2:]
  tokens, dynamic = unfold.unfold(coefs), measures.is_dynamic(sites)
  tokens[..., -m:, :] *= m / n  # the mean of the final streams, which compares with one stream
  count = len(tokens) if dynamic else 1
  matrices = {"this network" + f"\nmean over {count} tokens" * dynamic: tokens.mean(0)}
  matrices |= unfold.baselines(len(sites))
  if dynamic:
    shown = np.linspace(0, len(tokens) - 1, min(SHOWN_TOKENS, len(tokens))).round().astype(int)
    matrices |= {f"this network\ntoken {t} of {count}": tokens[t] for t in shown}
  spread = tokens.std(0) if dynamic else None
  rows = []
  for name, matrix in [*matrices.items(), *([("std", spread)] if dynamic else [])]:
    rows += [r for r in matrix_rows(matrix, name.replace("\n", ", ")) if r[2] // m <= r[1] // m]
  table = Table(("network", "input", "source", "weight"), rows)
  head = f"{title}\nC(0): inputs in terms of outputs; rebuilt to {error:.0e} (relative)"
  draw = functools.partial(plots.unfolded_matrices, matrices, spread, head, m)
  parts = [Part("unfolded", draw, table)]
  try:
    streams = unfold.unfold_streams(coefs).mean(0)
  except ValueError as error:
    skipped["unfolded_streams"] = str(error)
    return parts
  rows = [r for i, c in enumerate(streams) for r in matrix_rows(c, i) if r[2] // m <= r[1]]
  table = Table(("stream", "before", "source", "weight"), rows)
  head = f"{title}\nwhat each stream holds" + f", mean over {count} tokens" * dynamic
  parts.append(
    Part("unfolded_streams", functools.partial(plots.stream_matrices, streams, head, m), table)
  )
  return parts


def _print_tables(
  sites: Mapping[str, Site], tables: Mapping[str, Table], log: Callable[[str], None]
) -> None:
  """The numbers of each site, means over tokens, and their definitions."""
  similar = [None, *(row[3] for row in tables["similarity"].rows)] if "similarity" in tables else []
  if "gains" not in tables:
    for name, value in zip(sites, similar, strict=False):
      log(f"{name}  similarity to the input before: {'-' if value is None else f'{value:.3f}'}")
    return
  names = [plots.short(name) for name in sites]
  gains, head = tables["gains"], len(measures.GAINS)
  columns = ["site", *(k.replace("composite", "comp") for k in measures.GAINS)]
  rows = [[s, *row[1 : 2 * head : 2]] for s, row in zip(names, gains.rows, strict=True)]
  log("\n" + Table([c.replace("identity_distance", "|mix-I|") for c in columns], rows).text())
  if "streams" in tables:
    columns = ["site", *measures.STREAMS, "similarity"]
    width = len(measures.STREAMS)
    rows = [
      [s, *row[1 : 1 + width], similar[k] if similar else None]
      for k, (s, row) in enumerate(zip(names, tables["streams"].rows, strict=True))
    ]
    log("\n" + Table(columns, rows).text())
  log("\nMeans over tokens (maxima in gains.csv). P is mix: column j goes into row i.")
  for name, definition in spectra.DEFINITIONS.items():
    log(f"  {name:<20}{definition}")


def _mean(x: np.ndarray) -> float:
  """Over tokens, of what is defined."""
  x = np.asarray(x)
  return float(x[np.isfinite(x)].mean()) if np.isfinite(x).any() else float("nan")
