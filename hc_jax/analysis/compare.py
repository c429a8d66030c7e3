"""Comparison of two networks: loss, findings, gains and similarity side by side."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from hc_jax.analysis import findings, plots
from hc_jax.analysis.parts import Part
from hc_jax.analysis.tables import Table

LOSSES = {"train/loss": "training", "val/loss": "validation"}
GAINS = {
  "composite Amax gain": {
    "composite_amax_fwd_mean": "forward",
    "composite_amax_bwd_mean": "backward",
  },
  "composite norm": {"composite_norm_fwd_mean": "forward", "composite_norm_bwd_mean": "backward"},
}
Curve = tuple[str, int, Sequence[Any], Sequence[Any]]  # label, which network, x, y


def compare_parts(
  names: tuple[str, str],
  looks: tuple[Mapping[str, Part], Mapping[str, Part]],
  other_loss: str = "",
) -> tuple[list[Part], dict[str, str]]:
  """Returns the parts of a comparison of two networks, and the reasons for missing parts.

  Args:
    names: two different names, one for each network.
    looks: parts of each network by name, made by `look` and `loss_part`.
    other_loss: reason why the losses cannot be compared, or "". It leaves out only the loss.

  Returns:
    A list of the parts "compare_loss", "findings", "compare_gains" and "compare_similarity" that at
    least one network has, and a dict from the name of each missing part to the reason.
  """
  title = f"{names[0]} and {names[1]}"
  parts, skipped = [], {}
  if other_loss:
    skipped["compare_loss"] = other_loss
  else:
    panel = {"loss (nats per token)": LOSSES}
    parts.append(_curves("compare_loss", names, looks, "loss", panel, "optimizer step", title))
  if any("findings" in look for look in looks):
    parts.append(_findings(names, looks))
  depth = {
    "xlabel": "site, from 0",
    "numbered": True,
  }
  for part in (
    _curves(
      "compare_gains",
      names,
      looks,
      "gains",
      GAINS,
      title=f"{title}, means over tokens",
      log=True,
      **depth,
    ),
    _curves(
      "compare_similarity",
      names,
      looks,
      "similarity",
      {"cosine with the input before": {"median": "median"}},
      title=f"{title}, medians over tokens",
      first=1,  # because the first site has none before it
      **depth,
    ),
  ):
    if part.table.rows:
      parts.append(part)
    else:
      skipped[part.name] = "neither of the two has it"
  return parts, skipped


def _curves(
  name: str,
  names: Sequence[str],
  looks: Sequence[Mapping[str, Part]],
  source: str,
  panels: Mapping[str, Mapping[str, str]],
  xlabel: str,
  title: str,
  numbered: bool = False,
  first: int = 0,
  log: bool = False,
) -> Part:
  """Joins columns of both networks' tables into one, and draws one panel for each group."""
  drawn: dict[str, list[Curve]] = {panel: [] for panel in panels}
  columns, values = [], []
  for which, look in enumerate(looks):
    if source not in look:
      continue
    table = look[source].table
    x = [k if numbered else row[0] for k, row in enumerate(table.rows, first)]
    for panel, keys in panels.items():
      for key, text in keys.items():
        at = list(table.columns).index(key)
        known = {i: row[at] for i, row in zip(x, table.rows, strict=True) if row[at] is not None}
        label = f"{names[which]}, {text}"
        drawn[panel].append((label, which, list(known), list(known.values())))
        columns.append(label if len(panels) == 1 else f"{label}, {panel}")
        values.append(known)
  steps = sorted({x for known in values for x in known})
  head = "site" if numbered else "step"
  table = Table((head, *columns), [(x, *(known.get(x) for known in values)) for x in steps])
  return Part(name, functools.partial(plots.compared, drawn, xlabel, title, log), table)


def _findings(names: Sequence[str], looks: Sequence[Mapping[str, Part]]) -> Part:
  """Returns the findings of both networks in one table; the sites are listed by network."""
  own = [
    {row[0]: (row[1], row[-2]) for row in look["findings"].table.rows} if "findings" in look else {}
    for look in looks
  ]
  rows = []
  for name, definition in findings.DEFINITIONS.items():
    found = [of.get(name, (float("nan"), "")) for of in own]
    which = "; ".join(f"{n}: {w}" for n, (_, w) in zip(names, found, strict=True) if w)
    rows.append((name, *(value for value, _ in found), which, definition))
  return Part("findings", None, Table(("finding", *names, "sites", "definition"), rows))
