"""Checks of the effects of connections on a whole model, in addition to `conventions`."""

from collections.abc import Sequence

import numpy as np

from hc_jax import ops
from hc_jax.testing.compiled import normal
from hc_jax.testing.harness import NotApplicable, check
from hc_jax.testing.model_checks.evidence import Evidence, are_copies, close
from hc_jax.testing.reference.hyper import collapse

# Size of streams whose variance is about the eps of a norm. Larger streams would look the same to
# a norm whether they were summed or averaged.
SMALL = 3e-3


def expand_copies(seen: Evidence) -> None:
  """Checks that the first site gets copies of one embedding, or an embedding and empty slots."""
  _skip_ends(seen)
  streams, m = seen.reads[0].streams, seen.fractions
  if _begins_in_one_slot(seen):
    check(
      not np.any(streams[..., m:, :]),
      f"the streams that enter {seen.reads[0]} are not an embedding and empty slots; make them "
      f'with hc_jax.Expand({streams.shape[-2]}, kind="first")',
    )
    return
  if streams.shape[-2] == m:
    raise NotApplicable("there are as many streams as fractions, so that nothing is copied")
  check(
    are_copies(streams, m),
    f"the streams that enter {seen.reads[0]} are not copies of one embedding; make them with "
    "hc_jax.expand",
  )


def reduce_sums(seen: Evidence) -> None:
  """Checks that the output after the last site depends on the sum of the streams, before any norm.

  Replacing the last streams by S must give the output that the plain residual network gives for the
  sum of S.
  """
  _skip_ends(seen)
  last = seen.reads[-1].site.connection
  if last.reduce_kind != "sum":
    raise NotApplicable(f"streams of {type(last).__name__} end in reduce={last.reduce_kind!r}")
  if seen.options.post_norm:
    raise NotApplicable("post_norm=True, so that the last norm acts on the streams")
  like, last = seen.writes[-1].out, len(seen.writes) - 1
  streams = [SMALL * normal(f"last{i}", *like.shape) for i in range(2)]
  found = [_with_last(seen, last, S) for S in streams]
  heard = [i for i, (a, b) in enumerate(zip(*found, strict=True)) if not close(a, b)]
  check(
    bool(heard),
    f"the output does not depend on the streams that {seen.writes[-1]} writes; return "
    "hc_jax.reduce of those streams",
  )
  with ops.plain_residual():
    wanted = [_with_last(seen, last, collapse(S, seen.fractions)[..., None, :]) for S in streams]
  check(
    all(close(found[k][i], wanted[k][i], 2e-2) for i in heard for k in range(2)),
    f"after {seen.writes[-1]} the output is not made of the sum of the streams (but of their mean, "
    "or one stream, or after a norm); call hc_jax.reduce before any norm, or pass "
    "learned_ends=True if the model has its own reduce",
  )


def everything_learns(seen: Evidence) -> None:
  """Checks that every parameter of every connection gets a gradient, layer by layer."""
  gradients, sizes = seen.model.gradients(), {}
  indices = {(visit.site.name, visit.turn): int(np.max(visit.index)) for visit in seen.reads}
  for name, site in seen.model.sites.items():
    for leaf, shape in site.shapes.items():
      path = f"{name}/{leaf}" if f"{name}/{leaf}" in gradients else leaf
      if leaf in site.connection.frozen():
        continue
      for layer, grad in enumerate(gradients[path].reshape(-1, max(int(np.prod(shape)), 1))):
        index = indices.get((name, layer))
        if index is None or leaf not in site.connection.silent(index):
          sizes[path, layer] = float(np.linalg.norm(grad))
  if not sizes:
    raise NotApplicable("no connection has parameters that learn")
  for (path, layer), size in sizes.items():
    layers = sum(other == path for other, _ in sizes)
    check(
      size > 1e-7 * max(sizes.values()),
      f"{path}{f' of layer {layer}' if layers > 1 else ''} has no gradient: its result is not used",
    )


def nothing_leaks(seen: Evidence) -> None:
  """Checks that a change of one token changes no output before it."""
  axis = seen.options.causal_axis
  if axis is None:
    raise NotApplicable("pass causal_axis=1 if the model is causal and axis 1 holds tokens")
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
    all(close(a, b, 1e-6) for a, b in outputs),
    f"a change of token {t} changes outputs before it: tokens see their future",
  )


def starts_as_residual(seen: Evidence) -> None:
  """Checks that the streams at init equal the residual network's state, if all sites claim so."""
  claims = {site.name: site.residual_at_init for site in seen.model.sites.values()}
  for name, claim in claims.items():
    if claim is None:
      raise NotApplicable(f"{name} does not claim to start as a residual connection")
  _skip_ends(seen)
  streams = _last_written(seen)
  with ops.plain_residual():
    plain = _last_written(seen)
  if seen.reads[-1].site.connection.branch_is_block:  # slots hold states; the last is the newest
    streams = streams[..., -1:, :]
  state = collapse(np.float32(streams), seen.fractions)
  if not _begins_in_one_slot(seen):
    state *= seen.fractions / streams.shape[-2]
  want = np.float32(plain[..., 0, :])
  distance = np.linalg.norm(state - want) / (np.linalg.norm(want) + 1e-12)
  limit = max(*claims.values(), 1e-5 if streams.dtype.itemsize == 4 else 2e-2)
  check(
    distance <= limit,
    f"at init the streams are {distance:.1e} away from the plain residual network with the same "
    f"branches (hc_jax.as_residual); at most {limit:.0e} is allowed",
  )


def _last_written(seen: Evidence) -> np.ndarray:
  """Returns the streams that the last site writes, at init."""
  found = [visit.out for visit in seen.model.run(seen.model.initial)[1] if visit.kind == "write"]
  check(bool(found), "no connection writes")
  return found[-1]


def _begins_in_one_slot(seen: Evidence) -> bool:
  return seen.reads[0].site.connection.expand_kind == "first"


def _skip_ends(seen: Evidence) -> None:
  if seen.options.learned_ends:
    raise NotApplicable("learned_ends=True")


def _with_last(seen: Evidence, last: int, streams: np.ndarray) -> Sequence[np.ndarray]:
  """Returns the outputs if the last site wrote `streams`."""
  edit = lambda k, out: streams if k == last else out  # noqa: E731
  return seen.model.run(seen.model.kicked, edit=edit)[0]
