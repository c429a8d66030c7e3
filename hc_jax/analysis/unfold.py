"""What each layer's input is made of: hyper-connections unfolded into one matrix.

arXiv 2409.19606, Eq. 20 and 27-29: every stream, and so the input of every layer, is a sum of the
embedding and of the outputs of the layers before it. The factors depend on the connections alone,
so that they are exact for static connections, and for dynamic ones token by token.
"""

from collections.abc import Sequence

import numpy as np

from hc_jax.coefs import Coefs

POST_NORM_GAIN = 0.5**0.5


def unfold(
  sites: Sequence[Coefs], start: np.ndarray | None = None, end: np.ndarray | None = None
) -> np.ndarray:
  """C(0) (Eq. 27): the inputs of all layers, in terms of the embedding and the layers' outputs.

  With T_0 the embedding and T_j the output of sublayer j, the input of sublayer k is
  `sum_{j < k} C[k - 1, j] T_j`. The last row is the sum of the final streams, also
  where the network itself weights them (`reduce="head"` or "depth").

  Args:
    sites: maps of sublayers 1 .. K, in order. With token axes (of which all must have the same,
      or none), so is the result. Where the number of streams changes from one site to the next,
      they become one by the mean and are copied, as `hc_jax.models` does.
    start: `[n, m]`, how much of fraction f of the embedding stream i holds; by default copies
      (`hc_jax.expand`).
    end: `[m, n]`, what of the final streams the last row is; by default the read that the last site
      made for it, or their sum where it made none.

  Returns:
    `[..., K + 1, K + 1]` float64, lower triangular. With m fractions (slots of the branch input)
    `[..., (K + 1) m, (K + 1) m]`: row `k m + s` is slot s of an input, column `j m + f` fraction f
    of a source.

  Raises:
    ValueError: if there is no site, a site reads several views (it has no one input), or the
      number of fractions changes.
  """
  rows, _ = _unfold(sites, start, end)
  return np.concatenate(rows, axis=-2)


def unfold_streams(sites: Sequence[Coefs], start: np.ndarray | None = None) -> np.ndarray:
  """C(1) .. C(n) (Eq. 28, 29): the streams before each layer, in terms of the same sources.

  `C[i, k - 1, j]` is how much of T_j stream i holds when sublayer k reads; the last row is after
  the last sublayer.

  Args:
    sites: as for `unfold`, all with n streams.
    start: as for `unfold`.

  Returns:
    `[..., n, K + 1, (K + 1) m]` float64.

  Raises:
    ValueError: as `unfold`; or if the number of streams changes.
  """
  counts = sorted({site.read.shape[-1] for site in sites})
  if len(counts) > 1:
    raise ValueError(
      f"sites have {counts} streams: stream i is not the same in all; unfold each segment"
    )
  return np.stack(_unfold(sites, start, None)[1], axis=-2)


def streams_before(sites: Sequence[Coefs], start: np.ndarray | None = None) -> list[np.ndarray]:
  """Returns how much of each source the streams hold before each site and after the last.

  Args:
    sites: as for `unfold`; the number of streams may change.
    start: as for `unfold`.

  Returns:
    `[..., n, (K + 1) m]` float64 for each.

  Raises:
    ValueError: as `unfold`.
  """
  return _unfold(sites, start, None)[1]


def rebuild(matrix: np.ndarray, sources: Sequence[np.ndarray]) -> np.ndarray:
  """Layer inputs from the matrix: `sum_j matrix[..., k, j] T_j`.

  Args:
    matrix: what `unfold` gave, `[..., (K + 1) m, (K + 1) m]`.
    sources: T_0 .. T_K, each `[..., d]`.

  Returns:
    `[K + 1, ..., d]` float64: inputs of sublayers 1 .. K, and the sum of the final streams.
  """
  parts = np.stack([np.asarray(t, np.float64) for t in sources], axis=-2)
  m = matrix.shape[-1] // len(sources)
  *lead, count, d = parts.shape
  out = matrix @ parts.reshape(*lead, count * m, d // m)
  return np.moveaxis(out.reshape(*lead, -1, d), -2, 0)


def baselines(num_layers: int) -> dict[str, np.ndarray]:
  """The matrices of known arrangements (Figure 7), `[K + 1, K + 1]` each, for K sublayers.

  Sublayers are attention, feed-forward, attention, ... Each is `unfold` of fixed connections:

  * "Pre-Norm": `x + F(x)`, Eq. 15.
  * "Post-Norm": `N(x + F(x))` with N a factor 1/sqrt(2), which is Eq. 37 for a state and an output
    that are uncorrelated and of equal norm; trained networks differ.
  * "PTB": parallel transformer blocks, `x + A(x) + F(x)` (Eq. 18, with gain one: the paper's own
    arrangement multiplies the residual by n in every block).
  * "two-hop": `x + F(x + A(x))`; attention is read by its feed-forward and never enters the
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
  """What a pair of streams stands for; within a pair, PTB's first stream alone is the state."""
  halfway = num_layers % 2 == 1
  return np.array([[1.0, 0.0 if halfway or name == "two-hop" else 1.0]])


def _of(text: str, gain: float = 1.0) -> Coefs:
  """Maps from the rows of the paper's `[[0, B], [A_m, A_r]]`, written "0BB/mrr/mrr"."""
  rows = np.array([[float(c) for c in row] for row in text.split("/")])
  return Coefs(read=rows[1:, :1].T, write=gain * rows[:1, 1:].T, mix=gain * rows[1:, 1:].T)


def _unfold(
  sites: Sequence[Coefs], start: np.ndarray | None, end: np.ndarray | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Inputs and streams before each site and after the last, in terms of all sources."""
  if not sites:
    raise ValueError("unfold needs the maps of at least one site")
  n, m = sites[0].write.shape[-2:]
  for k, site in enumerate(sites):
    if site.read.shape[-2] != site.write.shape[-1]:
      raise ValueError(
        f"site {k} reads {site.read.shape[-2]} slots and writes {site.write.shape[-1]}: with "
        "several views a branch has no one input; unfold a network without attention_views"
      )
    if site.write.shape[-1] != m:
      raise ValueError(
        f"site {k} has {site.write.shape[-1]} fractions and site 0 has {m}: their parts of the "
        "width are not the same; unfold each segment"
      )
  leads = [np.shape(x)[:-2] for s in sites for x in (s.read, s.write, s.mix) if x is not None]
  lead = np.broadcast_shapes(*leads)
  # held[..., i, j m + f]: how much of fraction f of T_j stream i holds.
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
  """`hc_jax.expand`, `[n, m]`: stream i holds fraction i mod m."""
  return (np.arange(n)[:, None] % m == np.arange(m)).astype(np.float64)


def _means(n: int, m: int) -> np.ndarray:
  """The mean over the copies of each fraction, `[m, n]`; n / m times it is `hc_jax.reduce`."""
  copies = _copies(n, m)
  return (copies / copies.sum(0)).T
