"""What a model that uses connections must keep to, as functions of what was seen of it.

A convention is a function of `Evidence` that raises AssertionError with one sentence, in which the
site has its path, or `NotApplicable`. `hc_jax.testing.check_model` runs them all.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from hc_jax import ops
from hc_jax import params as hc_params
from hc_jax.testing.compiled import normal
from hc_jax.testing.watch import Visit, Watched
from hc_jax.testing.wiring import NotApplicable, check

SMALL = 3e-3  # streams whose variance is about the eps of a norm: it then tells a mean from a sum


@dataclasses.dataclass(frozen=True)
class Options:
  """As in `check_model`."""

  causal_axis: int | None = None
  post_norm: bool = False
  learned_ends: bool = False


class Evidence:
  """What was seen of a model at its kicked parameters.

  Attributes:
    model: to be run again.
    options: of `check_model`.
    outputs: the leaves of what it returned.
    visits: reads and writes in their order.

  Raises:
    AssertionError: if it called no connection.
  """

  def __init__(self, model: Watched, options: Options):
    self.model, self.options = model, options
    self.outputs, self.visits = model.run(model.kicked)
    check(bool(model.sites), "no connection of hc_jax was called")
    check(
      bool(self.visits),
      "the output does not depend on any connection; return hc_jax.reduce of the last streams",
    )

  @functools.cached_property
  def reads(self) -> list[Visit]:
    """The reads."""
    return [visit for visit in self.visits if visit.kind == "read"]

  @functools.cached_property
  def writes(self) -> list[Visit]:
    """The writes; AssertionError if there is none."""
    found = [visit for visit in self.visits if visit.kind == "write"]
    check(bool(found), "no connection writes")
    return found

  @property
  def fractions(self) -> int:
    """m of the connections."""
    return self.visits[0].site.connection.fractions


def every_read_is_written(seen: Evidence) -> None:
  """One write follows each read, by the connection that read."""
  for name in seen.model.sites:  # what is not used does not run
    check(
      any(visit.site.name == name for visit in seen.visits),
      f"{name} is called, but nothing of what it reads or writes reaches the output",
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
        f"{visit} writes what {pending} read; write with the connection that read",
      )
      pending = None
      continue
    check(
      pending is None,
      f"{pending} reads and never writes (streams = connection.write(streams, y, coefs)): what its "
      "branch computed reaches no stream",
    )
    pending = visit


def write_takes_its_reads_coefs(seen: Evidence) -> None:
  """The coefficients of a write are those of the read before it."""
  for read, write in _pairs(seen):
    if _same_coefs(write.coefs, read.coefs):
      continue
    others = [str(other) for other in seen.reads if _same_coefs(write.coefs, other.coefs)]
    check(
      False,
      f"{write} writes with {'coefs of ' + others[0] if others else 'changed coefs'}; give write "
      "the coefs that its own read returned, as they are",
    )


def write_takes_its_reads_streams(seen: Evidence) -> None:
  """The streams of a write are those that were read."""
  for read, write in _pairs(seen):
    check(
      _close(write.streams, read.streams),
      f"{write} writes to other streams than it read; give write the same streams",
    )


def streams_cross_sites(seen: Evidence) -> None:
  """The streams that enter a site are those that left the one before."""
  if seen.options.post_norm:
    return _norms_keep_streams_apart(seen)
  last = None
  for visit in seen.visits:
    if visit.kind == "write":
      last = visit
    elif last is not None and not _close(visit.streams, last.out):
      check(
        not _are_copies(visit.streams, seen.fractions),
        f"streams are collapsed between {last} and {visit}: all copies are equal there; expand "
        "once before the first site, and reduce once after the last",
      )
      check(
        False,
        f"streams are changed between {last} and {visit}; pass them on as write returned them",
      )
  return None


def _norms_keep_streams_apart(seen: Evidence) -> None:
  """With a norm in between, a change of one stream reaches that stream alone."""
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
    f"{np.flatnonzero(moved).tolist()}: a norm there must norm each stream by itself",
  )


def index_counts_sites(seen: Evidence) -> None:
  """The k-th site of the network has index k."""
  for number, visit in enumerate(seen.reads):
    check(
      visit.index.size == 1 and int(visit.index) == number,
      f"{visit} is sublayer {number} of the network, from 0, but has index {visit.index}; it "
      "counts sublayers through all blocks",
    )


def sites_share_nothing(seen: Evidence) -> None:
  """Every site has parameters of its own."""
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


def expand_copies(seen: Evidence) -> None:
  """The first site sees copies of one embedding."""
  _skip_ends(seen)
  streams, m = seen.reads[0].streams, seen.fractions
  if streams.shape[-2] == m:
    raise NotApplicable("nothing is copied: as many streams as fractions")
  check(
    _are_copies(streams, m),
    f"the streams that enter {seen.reads[0]} are no copies of one embedding; make them with "
    "hc_jax.expand",
  )


def reduce_sums(seen: Evidence) -> None:
  """After the last site the output is a function of the sum of the streams, before any norm.

  With the last streams replaced by S it is what the plain residual network makes of the sum of S.
  """
  _skip_ends(seen)
  if seen.options.post_norm:
    raise NotApplicable("post_norm=True: the last norm is that of the streams")
  like, last = seen.writes[-1].out, len(seen.writes) - 1
  streams = [SMALL * normal(f"last{i}", *like.shape) for i in range(2)]
  found = [_with_last(seen, last, S) for S in streams]
  heard = [i for i, (a, b) in enumerate(zip(*found, strict=True)) if not _close(a, b)]
  check(
    bool(heard),
    f"the output does not depend on the streams that {seen.writes[-1]} writes; return "
    "hc_jax.reduce of them",
  )
  with ops.plain_residual():
    wanted = [_with_last(seen, last, _summed(S, seen.fractions)) for S in streams]
  check(
    all(_close(found[k][i], wanted[k][i], 2e-2) for i in heard for k in range(2)),
    f"after {seen.writes[-1]} the output is not made of the sum of the streams: hc_jax.reduce sums "
    "them (no mean, no single stream), and comes before any norm",
  )


def coefs_are_float32(seen: Evidence) -> None:
  """Coefficients are float32 from read to write."""
  for visit in seen.visits:
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(visit.coefs)}
    check(
      dtypes == {"float32"},
      f"{visit} {visit.kind}s with coefs in {', '.join(sorted(dtypes))}; leave them float32",
    )


def streams_keep_their_dtype(seen: Evidence) -> None:
  """One dtype of streams, from the first site to the last."""
  first = seen.visits[0].streams.dtype
  for visit in seen.visits:
    check(
      visit.streams.dtype == first,
      f"{visit} is given streams in {visit.streams.dtype}, but the first site had them in {first}",
    )


def everything_learns(seen: Evidence) -> None:
  """Every parameter of every connection has a gradient, layer by layer."""
  gradients, sizes = seen.model.gradients(), {}
  for name, site in seen.model.sites.items():
    for leaf, shape in site.shapes.items():
      path = f"{name}/{leaf}" if f"{name}/{leaf}" in gradients else leaf
      if leaf in _frozen(site):
        continue
      for layer, grad in enumerate(gradients[path].reshape(-1, max(int(np.prod(shape)), 1))):
        sizes[path, layer] = float(np.linalg.norm(grad))
  if not sizes:
    raise NotApplicable("no connection has parameters that learn")
  for (path, layer), size in sizes.items():
    layers = sum(other == path for other, _ in sizes)
    check(
      size > 1e-7 * max(sizes.values()),
      f"{path}{f' of layer {layer}' if layers > 1 else ''} has no gradient: what it makes is not "
      "used",
    )


def decay_is_decided(seen: Evidence) -> None:
  """Weight decay is decided for every parameter."""
  try:
    hc_params.decay_mask(seen.model.initial)
  except hc_params.UserError as error:
    raise AssertionError(str(error)) from error


def nothing_leaks(seen: Evidence) -> None:
  """A change of a token changes no output before it."""
  axis = seen.options.causal_axis
  if axis is None:
    raise NotApplicable("say causal_axis=1 if axis 1 holds tokens and the model is causal")
  first = np.array(seen.model.first)
  t = first.shape[axis] // 2
  at = (slice(None),) * axis + (t,)
  is_float = np.issubdtype(first.dtype, np.floating)
  first[at] = (
    first[at] + 1 if is_float else np.where(first[at] == first.min(), first.max(), first.min())
  )
  check(not np.array_equal(first, seen.model.first), "all tokens of the input are equal: vary them")
  after, before = seen.model.run(seen.model.kicked, first)[0], (slice(None),) * axis + (slice(t),)
  outputs = [
    (a[before], b[before]) for a, b in zip(after, seen.outputs, strict=True) if a.ndim > axis
  ]
  check(
    all(_close(a, b, 1e-6) for a, b in outputs),
    f"a change of token {t} changes outputs before it: tokens see their future",
  )


def starts_as_residual(seen: Evidence) -> None:
  """At init every stream is the plain residual network's, where all connections claim so."""
  claims = {site.name: site.residual_at_init for site in seen.model.sites.values()}
  for name, claim in claims.items():
    if claim is None:
      raise NotApplicable(f"{name} does not claim to start as a residual connection")
  _skip_ends(seen)
  streams = [v for v in seen.model.run(seen.model.initial)[1] if v.kind == "write"][-1].out
  with ops.plain_residual():
    plain = [v for v in seen.model.run(seen.model.initial)[1] if v.kind == "write"][-1].out
  mean = _summed(streams, seen.fractions)[..., 0, :] * (seen.fractions / streams.shape[-2])
  want = np.float32(plain[..., 0, :])
  distance = np.linalg.norm(mean - want) / (np.linalg.norm(want) + 1e-12)
  limit = max(*claims.values(), 1e-5 if streams.dtype.itemsize == 4 else 2e-2)
  check(
    distance <= limit,
    f"at init the streams are {distance:.1e} away from the plain residual network of the same "
    f"branches (hc_jax.as_residual), more than {limit:.0e}",
  )


CONVENTIONS = (
  ("every read has its write", every_read_is_written),
  ("write takes the coefs of its read", write_takes_its_reads_coefs),
  ("write takes the streams of its read", write_takes_its_reads_streams),
  ("streams cross from site to site", streams_cross_sites),
  ("the index counts sublayers", index_counts_sites),
  ("sites share no parameters", sites_share_nothing),
  ("expand copies", expand_copies),
  ("reduce sums, before any norm", reduce_sums),
  ("coefs are float32", coefs_are_float32),
  ("streams keep their dtype", streams_keep_their_dtype),
  ("every connection learns", everything_learns),
  ("weight decay is decided", decay_is_decided),
  ("tokens do not see their future", nothing_leaks),
  ("starts as the residual network", starts_as_residual),
)


def _pairs(seen: Evidence) -> list[tuple[Visit, Visit]]:
  """Each write with the read just before it."""
  pairs = zip(seen.visits, seen.visits[1:], strict=False)
  return [(a, b) for a, b in pairs if (a.kind, b.kind) == ("read", "write")]


def _skip_ends(seen: Evidence) -> None:
  if seen.options.learned_ends:
    raise NotApplicable("learned_ends=True")


def _with_last(seen: Evidence, last: int, streams: np.ndarray) -> Sequence[np.ndarray]:
  """Outputs with other streams after the last site."""
  edit = lambda k, out: streams if k == last else out  # noqa: E731
  return seen.model.run(seen.model.kicked, edit=edit)[0]


def _summed(streams: np.ndarray, fractions: int) -> np.ndarray:
  """`ops.reduce`, in NumPy, as one stream `[..., 1, d]`."""
  streams, n = np.float32(streams), streams.shape[-2]
  parts = [streams[..., k::fractions, :] for k in range(fractions)]
  sums = [part.sum(-2) * (n / fractions / part.shape[-2]) for part in parts]
  return np.concatenate(sums, -1)[..., None, :]


def _are_copies(streams: np.ndarray, fractions: int) -> bool:
  n = streams.shape[-2]
  return n > fractions and _close(streams, streams[..., [j % fractions for j in range(n)], :])


def _same_coefs(a: Any, b: Any) -> bool:
  if jax.tree.structure(a) != jax.tree.structure(b):
    return False
  pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
  return all(_close(x, y) for x, y in pairs)


def _close(a: np.ndarray, b: np.ndarray, limit: float = 1e-5) -> bool:
  """Equal to rounding: to `limit` of the largest, and to 2e-2 where either has 16 bits."""
  if a.shape != b.shape:
    return False
  if min(a.dtype.itemsize, b.dtype.itemsize) < 4:
    limit = 2e-2
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return bool(np.abs(a - b).max(initial=0) <= limit * max(np.abs(b).max(initial=0), 1e-30))


def _frozen(site: Any) -> set[str]:
  """Parameters that make nothing but what a connection's fields keep from learning."""
  fields = {"train_read_mix": ("read", "mix"), "train_write": ("write",)}
  held = {
    part
    for field, parts in fields.items()
    if not getattr(site.connection, field, True)
    for part in parts
  }
  parts = site.connection.parts({name: np.zeros(shape) for name, shape in site.shapes.items()})
  learning = {name for part, names in parts.items() if part not in held for name in names}
  return set(site.shapes) - (learning if held else set(site.shapes))
