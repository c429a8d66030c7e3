"""Parts of a report: figures with their numbers, and the reason for each figure left out."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hc_jax.analysis import findings, measures, plots, unfold
from hc_jax.analysis.collect import Site, token_mean
from hc_jax.analysis.similarity import adjacent_similarity
from hc_jax.analysis.tables import Table, matrix_rows

MAX_UNFOLDED, SHOWN_TOKENS = 256, 4  # tokens
UNFOLDING_HOLDS = 0.1  # relative error of rebuilt inputs; a few per cent with bfloat16 streams
OF_CONNECTIONS = ("connections", "weights", "gains", "streams", "unfolded")


@dataclasses.dataclass(frozen=True)
class Part:
  """A table of numbers and, in most cases, the figure that shows it.

  Attributes:
    name: name of the files, without extension.
    draw: function that draws the figure; None if the part has only numbers.
    table: the numbers.
    labels: short names of the sites in order, if rows and columns of the figure are sites.
    fractions: m, the rows and columns for each site in such a figure.
  """

  name: str
  draw: Callable[[], Any] | None
  table: Table
  labels: tuple[str, ...] = ()
  fractions: int = 1


@dataclasses.dataclass(frozen=True)
class Unfolding:
  """C(0) of some tokens, with the sites and sources that it was checked against.

  Attributes:
    sites: sites with one token axis.
    matrices: `[t, (K + 1) m, (K + 1) m]`. The last row is the mean of the final streams, their sum
      if only one stream began with the embedding, or `Site.end`: comparable to a single stream.
    sources: K + 1 arrays `[t, d]`, the embedding and the outputs.
    error: largest relative error of the rebuilt inputs.
    fractions: m.
  """

  sites: list[Site]
  matrices: np.ndarray
  sources: list[np.ndarray]
  error: float
  fractions: int


def look(sites: Mapping[str, Site], title: str = "") -> tuple[list[Part], dict[str, str]]:
  """Computes the parts of a report, without drawing figures.

  Args:
    sites: sites of one model, from `collect_sites`.
    title: title above every figure; the number of tokens is added.

  Returns:
    The parts, and a dict from the name of each missing part to the reason.
  """
  names, found = list(sites), list(sites.values())
  tokens = int(np.prod(found[0].streams.shape[:-2]))
  over = f"{title}, {tokens:,} tokens"
  parts, skipped = [], {}
  if len(found) > 1:
    parts.append(_similarity(names, found, over))
  try:
    unfolding = _unfold(found)
    parts.append(_findings(unfolding, parts[0].table if parts else None))
  except ValueError as error:
    unfolding = None
    skipped |= dict.fromkeys(("findings", "unfolded"), str(error))
  if measures.is_residual(found):
    reason = "every site is x + F(x): one stream, all weights one"
    return parts, skipped | dict.fromkeys(OF_CONNECTIONS, reason)
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
  if unfolding is not None:
    parts.append(_unfolded(names, unfolding, measures.is_dynamic(found), title))
    try:
      parts.append(_unfolded_streams(names, unfolding, measures.is_dynamic(found), title))
    except ValueError as error:
      skipped["unfolded_streams"] = str(error)
  return parts, skipped


def loss_part(rows: Sequence[Mapping[str, Any]], title: str = "") -> Part:
  """Returns the part "loss" from rows of metrics.jsonl."""
  columns = ("step", "train/loss", "val/loss", "val/bpb")
  table = [[row.get(c) for c in columns] for row in rows if any(c in row for c in columns[1:])]
  return Part("loss", lambda: plots.loss_curve(rows, title), Table(columns, table))


def telemetry_part(rows: Sequence[Mapping[str, Any]], title: str = "") -> Part | None:
  """Returns the part "telemetry" from rows of metrics.jsonl; None if no row has "hc/" values."""
  rows = [row for row in rows if any(key.startswith("hc/") for key in row)]
  keys = sorted({key for row in rows for key in row if key.startswith("hc/")})
  if not rows:
    return None
  table = Table(("step", *keys), [[row["step"], *(row.get(key) for key in keys)] for row in rows])
  head = f"{title}\nduring training, on validation text"
  return Part("telemetry", functools.partial(plots.telemetry, rows, head), table)


def ablation_part(
  sites: Mapping[str, Site], kl: np.ndarray, title: str = "", tokens: int = 0
) -> Part:
  """Returns the part "stream_ablation".

  Args:
    sites: sites of one model, from `collect_sites`.
    kl: `[K, n]` nats per token, from `ablate_streams`.
    title: title above the figure.
    tokens: number of tokens, for the title; 0 leaves it out.
  """
  names = list(sites)
  rows = [(names[k], stream, value) for k, stream, value in matrix_rows(kl)]
  table = Table(("site", "stream", "kl"), rows)
  over = f", {tokens:,} tokens" * bool(tokens)
  head = f"{title}{over}\nKL(clean || ablated): one stream zeroed before one site"
  draw = functools.partial(plots.stream_ablation, names, kl, head)
  return Part("stream_ablation", draw, table)


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


def _unfold(sites: list[Site]) -> Unfolding:
  """Computes C(0) of some tokens; raises ValueError if the rebuilt inputs are off."""
  few = measures.some_tokens(sites, MAX_UNFOLDED)
  matrices, sources, error = measures.unfolding(few)
  if not error < UNFOLDING_HOLDS:
    raise ValueError(
      f"layer inputs rebuilt from the matrices are off by {error:.2g} (relative): something acts "
      "between the sites, such as a norm on the streams (model.norm_position='post')"
    )
  n, m = few[-1].coefs.write.shape[-2:]
  last = few[-1]
  is_sum = last.end is None and last.coefs.next_read is None
  if is_sum and measures.beginning(few[0].streams, m) is None:
    matrices[..., -m:, :] *= m / n
  return Unfolding(few, matrices, sources, error, m)


def _findings(found: Unfolding, similarity: Table | None) -> Part:
  """Returns the part "findings": numbers of this network next to those of known networks."""
  nothing = findings.Finding(float("nan"))
  own = findings.from_matrix(found.matrices.mean(0), found.fractions)
  own |= findings.from_tokens(found.matrices, found.sources)
  if similarity is not None:
    median = np.mean([row[list(similarity.columns).index("median")] for row in similarity.rows])
    own["input similarity"] = findings.Finding(float(median))
  known = unfold.baselines(len(found.sites))
  others = [findings.from_matrix(matrix) for matrix in known.values()]
  rows = []
  for name, definition in findings.DEFINITIONS.items():
    mine = own.get(name, nothing)
    values = [mine.value, *(other.get(name, nothing).value for other in others)]
    rows.append((name, *values, mine.which, definition))
  columns = ("finding", "this network", *known, "sites", "definition")
  return Part("findings", None, Table(columns, rows))


def _unfolded(names: list[str], found: Unfolding, dynamic: bool, title: str) -> Part:
  """Returns the part "unfolded": C(0), its mean and single tokens, next to the baselines.

  In its table, input k is that of site k (the last is the end), source k is the output of site k,
  and source -1 is the embedding. With m fractions these are multiplied by m.
  """
  tokens, m = found.matrices, found.fractions
  count = len(tokens) if dynamic else 1
  matrices = {"this network" + f"\nmean over {count} tokens" * dynamic: tokens.mean(0)}
  matrices |= unfold.baselines(len(found.sites))
  if dynamic:
    shown = np.linspace(0, len(tokens) - 1, min(SHOWN_TOKENS, len(tokens))).round().astype(int)
    matrices |= {f"this network\ntoken {t} of {count}": tokens[t] for t in shown}
  spread = tokens.std(0) if dynamic else None
  mean, *others = matrices.items()
  deviation = [("this network, standard deviation over tokens", spread)] * dynamic
  rows = []
  for name, matrix in (mean, *deviation, *others):
    own = m if matrix.shape == mean[1].shape else 1  # known networks have no fractions
    for i, j, value in matrix_rows(matrix):
      if j // own <= i // own:
        rows.append((name.replace("\n", ", "), i, j - own, value))
  table = Table(("network", "input", "source", "weight"), rows)
  head = f"{title}\nC(0): inputs in terms of outputs; rebuilt to {found.error:.0e} (relative)"
  draw = functools.partial(plots.unfolded_matrices, matrices, spread, head, m)
  return Part("unfolded", draw, table, tuple(plots.short(name) for name in names), m)


def _unfolded_streams(names: list[str], found: Unfolding, dynamic: bool, title: str) -> Part:
  """Returns the part "unfolded_streams", with sources numbered as in the part "unfolded".

  Raises:
    ValueError: if the number of streams changes.
  """
  m = found.fractions
  start = measures.beginning(found.sites[0].streams, m)
  streams = unfold.unfold_streams([site.coefs for site in found.sites], start).mean(0)
  rows = [
    (i, k, j - m, value)
    for i, c in enumerate(streams)
    for k, j, value in matrix_rows(c)
    if j // m <= k
  ]
  table = Table(("stream", "before", "source", "weight"), rows)
  head = f"{title}\nwhat each stream holds" + f", mean over {len(found.matrices)} tokens" * dynamic
  draw = functools.partial(plots.stream_matrices, streams, head, m)
  return Part("unfolded_streams", draw, table, tuple(plots.short(name) for name in names), m)


def _mean(x: np.ndarray) -> float:
  """Returns the mean over tokens, ignoring values that are not finite."""
  x = np.asarray(x)
  return float(x[np.isfinite(x)].mean()) if np.isfinite(x).any() else float("nan")
