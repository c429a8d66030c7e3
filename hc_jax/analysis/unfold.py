"""Hyper-connections unfolded into one matrix of dense connections between layers.

Every stream, and therefore the input of every layer, is a weighted sum of the embedding and the
outputs of earlier layers (arXiv 2409.19606, Eq. 20 and 27-29). The weights follow from the maps
alone. They are exact for static connections, and exact for each token for dynamic connections.
"""

from collections.abc import Sequence

import numpy as np

from hc_jax.coefs import Coefs

POST_NORM_GAIN = 0.5**0.5


def unfold(
  sites: Sequence[Coefs], start: np.ndarray | None = None, end: np.ndarray | None = None
) -> np.ndarray:
  """Computes C(0) (Eq. 27): each layer's input as weights of the embedding and earlier outputs.

  The input of site k, from 0, is `sum_{j <= k} C[k, j] T_j`, where T_0 is the embedding and T_{j+1}
  the output of site j. The last row is the sum of the final streams, even if the network itself
  weights them (`reduce="head"` or "depth").

  Args:
    sites: maps of the K sites, in order. Maps may have token axes, the same for all that have any;
      the result then has them too. If the number of streams changes between two sites, the streams
      are averaged and copied, as `hc_jax.models` does.
    start: `[n, m]`, weight of fraction f of the embedding in stream i at the beginning; copies
      (`hc_jax.expand`) by default.
    end: `[m, n]`, weights of the final streams in the last row. By default the read that the last
      site computed for the end, or the sum of the streams if it computed none.

  Returns:
    `[..., K + 1, K + 1]` float64, lower triangular. With m fractions (slots of the branch input)
    `[..., (K + 1) m, (K + 1) m]`: row `k m + s` is slot s of an input, column `j m + f` is fraction
    f of a source.

  Raises:
    ValueError: if `sites` is empty, a site reads several views (and so has no single input), or
      the number of fractions changes.
  """
  rows, _ = _unfold(sites, start, end)
  return np.concatenate(rows, axis=-2)


def unfold_streams(sites: Sequence[Coefs], start: np.ndarray | None = None) -> np.ndarray:
  """Computes C(1) .. C(n) (Eq. 28, 29): each stream as weights of the embedding and the outputs.

  Entry `C[i, k, j]` is the weight of T_j (as in `unfold`) in stream i when site k, from 0, reads
  it. The last row is the stream after the last site.

  Args:
    sites: maps of the K sites in order, all with n streams.
    start: `[n, m]`, weights of the embedding in the streams at the beginning; copies by default.

  Returns:
    `[..., n, K + 1, (K + 1) m]` float64.

  Raises:
    ValueError: if `sites` is empty, a site reads several views, or the number of fractions or of
      streams changes.
  """
  counts = sorted({site.read.shape[-1] for site in sites})
  if len(counts) > 1:
    raise ValueError(
      f"sites have {counts} streams: stream i is not the same in all; unfold each segment"
    )
  return np.stack(_unfold(sites, start, None)[1], axis=-2)


def streams_before(sites: Sequence[Coefs], start: np.ndarray | None = None) -> list[np.ndarray]:
  """Computes the weight of each source in the streams, before each site and after the last.

  Args:
    sites: maps of the K sites in order; the number of streams may change.
    start: `[n, m]`, weights of the embedding in the streams at the beginning; copies by default.

  Returns:
    K + 1 arrays `[..., n, (K + 1) m]` float64, with the n of each site.

  Raises:
    ValueError: if `sites` is empty, a site reads several views, or the number of fractions changes.
  """
  return _unfold(sites, start, None)[1]


def rebuild(matrix: np.ndarray, sources: Sequence[np.ndarray]) -> np.ndarray:
  """Computes the layers' inputs from the matrix and the sources: `sum_j matrix[..., k, j] T_j`.

  Args:
    matrix: `[..., (K + 1) m, (K + 1) m]`, from `unfold`.
    sources: K + 1 arrays `[..., d]`, the embedding and the output of each site.

  Returns:
    `[K + 1, ..., d]` float64: the inputs of the K sites, then the last row of the matrix
    applied to the sources (the sum of the final streams, unless `unfold` was given an `end`).
  """
  parts = np.stack([np.asarray(t, np.float64) for t in sources], axis=-2)
  m = matrix.shape[-1] // len(sources)
  *lead, count, d = parts.shape
  out = matrix @ parts.reshape(*lead, count * m, d // m)
  return np.moveaxis(out.reshape(*lead, -1, d), -2, 0)


def baselines(num_layers: int) -> dict[str, np.ndarray]:
  """Returns the matrices C(0) of known networks with K sites, `[K + 1, K + 1]` each (Figure 7).

  Branches alternate between attention A and feed-forward F. The networks are:

  * "Pre-Norm": `x + F(x)`, Eq. 15.
  * "Post-Norm": `N(x + F(x))`, where N divides by sqrt(2). That is Eq. 37 if state and output are
    uncorrelated and of equal norm; in trained networks they are not quite.
  * "PTB": parallel transformer blocks, `x + A(x) + F(x)`. This is Eq. 18 with gain one; the paper's
    own arrangement multiplies the residual by n in every block.
  * "two-hop": `x + F(x + A(x))`. The feed-forward reads the attention, which never enters the
    residual.
  """
  g = POST_NORM_GAIN
  one_stream = {"Pre-Norm": _of("01/11"), "Post-Norm": _of("01/11", g)}
  found = {name: unfold([site] * num_layers) for name, site in one_stream.items()}
  pairs = {
    "PTB": (_of("010/111/111"), _of("001/010/100")),
    "two-hop": (_of("001/110/000"), _of("010/110/100")),
  }
  first_only = np.array([[1.0], [0.0]])
  for name, pair in pairs.items():
    sites = [pair[k % 2] for k in range(num_layers)]
    found[name] = unfold(sites, start=first_only, end=_outcome(num_layers, name))
  return found


def _outcome(num_layers: int, name: str) -> np.ndarray:
  """Returns `end` for a pair of streams; after half a block of PTB, only stream 0 is the state."""
  halfway = num_layers % 2 == 1
  return np.array([[1.0, 0.0 if halfway or name == "two-hop" else 1.0]])


def _of(text: str, gain: float = 1.0) -> Coefs:
  """Returns maps from the rows of the paper's `[[0, B], [A_m, A_r]]`, written "0BB/mrr/mrr"."""
  rows = np.array([[float(c) for c in row] for row in text.split("/")])
  return Coefs(read=rows[1:, :1].T, write=gain * rows[:1, 1:].T, mix=gain * rows[1:, 1:].T)


def _unfold(
  sites: Sequence[Coefs], start: np.ndarray | None, end: np.ndarray | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Returns inputs and streams, before each site and after the last, as weights of all sources."""
  if not sites:
    raise ValueError("unfold needs the maps of at least one site")
  n, m = sites[0].write.shape[-2:]
  for k, site in enumerate(sites):
    if site.read.shape[-2] != site.write.shape[-1]:
      raise ValueError(
        f"site {k} reads {site.read.shape[-2]} slots and writes {site.write.shape[-1]}: with "
        "several views a branch has no single input; unfold a network without attention_views"
      )
    if site.write.shape[-1] != m:
      raise ValueError(
        f"site {k} has {site.write.shape[-1]} fractions and site 0 has {m}: their parts of the "
        "width are not the same; unfold each segment"
      )
  leads = [np.shape(x)[:-2] for s in sites for x in (s.read, s.write, s.mix) if x is not None]
  lead = np.broadcast_shapes(*leads)
  # held[..., i, j m + f] is the weight of fraction f of T_j in stream i.
  held = np.zeros((*lead, n, (len(sites) + 1) * m))
  held[..., :m] = _copies(n, m) if start is None else start
  inputs, streams = [], []
  for k, site in enumerate(sites):
    count = site.read.shape[-1]
    if count != held.shape[-2]:
      held = _copies(count, m) @ _means(held.shape[-2], m) @ held
    inputs.append(np.asarray(site.read, np.float64) @ held)
    streams.append(held)
    held = held.copy() if site.mix is None else np.asarray(site.mix, np.float64) @ held
    held[..., (k + 1) * m : (k + 2) * m] = site.write  # nothing else holds T_{k + 1} yet
  if end is None:
    end = sites[-1].next_read
  last = _means(held.shape[-2], m) * (held.shape[-2] / m) if end is None else end
  return [*inputs, last @ held], [*streams, held]


def _copies(n: int, m: int) -> np.ndarray:
  """Returns `hc_jax.expand` as a matrix `[n, m]`: stream i holds fraction i mod m."""
  return (np.arange(n)[:, None] % m == np.arange(m)).astype(np.float64)


def _means(n: int, m: int) -> np.ndarray:
  """Returns the mean over the copies of each fraction, `[m, n]`: `hc_jax.reduce` times m / n."""
  copies = _copies(n, m)
  return (copies / copies.sum(0)).T
