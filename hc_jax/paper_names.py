"""Names that papers and other projects give to connections, for messages about an unknown name."""

import re
from collections.abc import Iterable

from hc_jax.nearest import nearest

# By the name's letters alone: "DHC x 4" and "dhc4" are both "dhc".
_NAMES = {
  "dhc": "hc",
  "shc": "hc (with dynamic=False)",
  "statichc": "hc (with dynamic=False)",
  "hyper": "hc",
  "hyperconnection": "hc",
  "hyperconnections": "hc",
  "hyperconnect": "hc",
  "fc": "frac",
  "fracconnection": "frac",
  "fracconnections": "frac",
  "generalizedhyperconnections": "ghc",
  "manifoldconstrainedhyperconnections": "mhc",
  "manifoldhyperconnection": "mhc",
  "ihc": "identity",
  "identityhc": "identity",
  "attnres": "attn_res",
  "attentionresiduals": "attn_res",
  "dar": "attn_res_delta",
  "deltaattentionresiduals": "attn_res_delta",
  "prenorm": "residual",
  "resnet": "residual",
  "none": "residual",
}


def named_here(name: str) -> str | None:
  """Returns our name of a connection that papers call `name`, such as "hc" for "DHC×4"; or None."""
  letters = re.sub(r"[^a-z]", "", re.sub(r"\s*[x×*]?\s*\d+$", "", name.strip().lower()))
  return _NAMES.get(letters)


def config_of(name: str) -> str | None:
  """Returns the shipped config of a connection that papers call `name`; or None."""
  ours = named_here(name)
  configs = {"hc": "dhc", "hc (with dynamic=False)": "shc"}
  return None if ours is None else f"variants/{configs.get(ours, ours)}"


def suggestion(name: str, known: Iterable[str]) -> str:
  """Returns `; did you mean ...?` for an unknown name of a connection; "." if nothing is similar.

  Args:
    name: name that the user typed, such as a paper's "DHC×4".
    known: names of the connections.
  """
  near = named_here(name) or nearest(name.lower(), known)
  return "." if near is None else f"; did you mean {near}?"
