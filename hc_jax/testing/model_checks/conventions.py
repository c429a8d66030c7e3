"""Conventions for calling connections, each checked on the recorded calls of a model.

A convention is a function of `Evidence`. It raises AssertionError with one sentence that names the
path of the site, or `NotApplicable`. `hc_jax.testing.check_model` runs all conventions.
"""

from typing import Any

import jax
import numpy as np

from hc_jax import params as hc_params
from hc_jax.testing.compiled import normal
from hc_jax.testing.harness import NotApplicable, check
from hc_jax.testing.model_checks.evidence import Evidence, are_copies, close
from hc_jax.testing.model_checks.watch import Visit


def every_read_is_written(seen: Evidence) -> None:
  """Checks that each read is followed by one write, by the same connection."""
  for name in seen.model.sites:  # a call that the output does not need is compiled away
    check(
      any(visit.site.name == name for visit in seen.visits),
      f"{name} is called, but nothing that it reads or writes reaches the output",
    )
  pending = None
  for visit in [*seen.visits, None]:
    kind = visit.kind if visit is not None else "end"
    if kind == "write":
      check(
        pending is not None,
        f"{visit} writes without a read before it; each connection reads once, then writes once",
      )
      check(
        visit.site == pending.site,
        f"{visit} writes after {pending} read; write with the connection that read",
      )
      pending = None
      continue
    check(
      pending is None,
      f"{pending} reads and never writes: no call of its write was seen, so that its branch output "
      "reaches no stream or your own code adds it, which cannot be checked; call "
      "streams = connection.write(streams, y, coefs)",
    )
    pending = visit


def write_takes_its_reads_coefs(seen: Evidence) -> None:
  """Checks that each write gets the coefficients of the read before it."""
  for read, write in _pairs(seen):
    if _same_coefs(write.coefs, read.coefs):
      continue
    others = [str(other) for other in seen.reads if _same_coefs(write.coefs, other.coefs)]
    check(
      False,
      f"{write} writes with {'coefs of ' + others[0] if others else 'changed coefs'}; pass write "
      "the coefs that its own read returned, unchanged",
    )


def write_takes_its_reads_streams(seen: Evidence) -> None:
  """Checks that each write gets the streams of the read before it."""
  for read, write in _pairs(seen):
    check(
      close(write.streams, read.streams),
      f"{write} writes to other streams than it read; pass write the same streams",
    )


def streams_cross_sites(seen: Evidence) -> None:
  """Checks that the streams entering a site are those that left the site before."""
  if seen.options.post_norm:
    return _norms_keep_streams_apart(seen)
  last = None
  for visit in seen.visits:
    if visit.kind == "write":
      last = visit
    elif last is not None and not close(visit.streams, last.out):
      check(
        not are_copies(visit.streams, seen.fractions),
        f"streams are collapsed between {last} and {visit}, where all streams are equal; expand "
        "once before the first site, and reduce once after the last",
      )
      check(
        False,
        f"streams are changed between {last} and {visit}; pass them on as write returned them",
      )
  return None


def _norms_keep_streams_apart(seen: Evidence) -> None:
  """Checks that a norm between sites does not carry one stream into another."""
  if seen.writes[0].out.shape[-2] < 2 or len(seen.reads) < 2:
    raise NotApplicable("one stream, or one site")

  def edit(k: int, streams: np.ndarray) -> np.ndarray:
    streams = np.array(streams)
    if k == 0:
      streams[..., 1, :] = normal("edit", *streams[..., 1, :].shape)
    return streams

  after = [v for v in seen.model.run(seen.model.kicked, edit=edit)[1] if v.kind == "read"][1]
  moved = np.abs(np.float32(after.streams) - np.float32(seen.reads[1].streams))
  moved = moved.reshape(-1, *moved.shape[-2:]).max((0, 2)) > 1e-6
  check(
    moved.tolist() == [i == 1 for i in range(len(moved))],
    f"between {seen.writes[0]} and {after} a change of stream 1 reaches streams "
    f"{np.flatnonzero(moved).tolist()}; norm each stream separately there",
  )


def index_counts_sites(seen: Evidence) -> None:
  """Checks that the k-th site of the network, from 0, is called with index k."""
  for number, visit in enumerate(seen.reads):
    check(
      visit.index.size == 1 and int(visit.index) == number,
      f"{visit} is sublayer {number} of the network, from 0, but gets index {visit.index}; count "
      "sublayers through all blocks",
    )


def coefs_are_float32(seen: Evidence) -> None:
  """Checks that coefficients are float32 from read to write."""
  for visit in seen.visits:
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(visit.coefs.replace(slot=None))}
    check(
      dtypes == {"float32"},
      f"{visit} {visit.kind}s with coefs in {', '.join(sorted(dtypes))}; leave them float32",
    )


def streams_keep_their_dtype(seen: Evidence) -> None:
  """Checks that the streams keep one dtype from the first site to the last."""
  first = seen.visits[0].streams.dtype
  for visit in seen.visits:
    check(
      visit.streams.dtype == first,
      f"{visit} gets streams in {visit.streams.dtype}, but the first site got {first}; keep one "
      "dtype",
    )


def sites_share_nothing(seen: Evidence) -> None:
  """Checks that no two sites share parameters."""
  params = dict(hc_params.named_leaves(seen.model.kicked))
  if not any(site.shapes for site in seen.model.sites.values()):
    raise NotApplicable("no connection has parameters")
  for name, site in seen.model.sites.items():
    calls = sum(visit.site.name == name for visit in seen.reads)
    for leaf, shape in site.shapes.items():
      whole = params[f"{name}/{leaf}" if f"{name}/{leaf}" in params else leaf]
      layers = whole.size // max(int(np.prod(shape)), 1)
      check(
        calls <= layers,
        f"{name} serves {calls} sites with the parameters of {layers}; make a connection for each",
      )


def _pairs(seen: Evidence) -> list[tuple[Visit, Visit]]:
  """Returns each write together with the read just before it."""
  pairs = zip(seen.visits, seen.visits[1:], strict=False)
  return [(a, b) for a, b in pairs if (a.kind, b.kind) == ("read", "write")]


def _same_coefs(a: Any, b: Any) -> bool:
  if jax.tree.structure(a) != jax.tree.structure(b):
    return False
  pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
  return all(close(x, y) for x, y in pairs)
