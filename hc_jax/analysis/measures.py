"""Measures of `spectra` and `similarity` for every site of a model, token by token."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from hc_jax import ops
from hc_jax.analysis import spectra
from hc_jax.analysis.collect import Site
from hc_jax.analysis.unfold import rebuild, streams_before, unfold
from hc_jax.coefs import Coefs

# Measures that are one number per token, in the order of the tables.
GAINS = (
  *(f"{what}_{way}" for what in ("amax", "norm") for way in ("fwd", "bwd")),
  *(f"composite_{what}_{way}" for what in ("amax", "norm") for way in ("fwd", "bwd")),
  *("sigma_max", "sigma_min", "identity_distance"),
)
STREAMS = ("effective_read", "effective_write", "effective_energy", "stream_cosine")


def measure(sites: Sequence[Site]) -> list[dict[str, np.ndarray]]:
  """Computes the `GAINS` and `STREAMS` of each site, token by token.

  A composite is the product of the mixes from a site to the last site before the number of streams
  changes.

  Args:
    sites: sites in the order of the forward pass.

  Returns:
    A dict for each site. Names in `GAINS` and `STREAMS` give one number per token, `[...]`, or a
    single number if the maps are static. "sigma", "composite_sigma" and "energy" give `[..., n]`.
  """
  mixes = [_mix(site.coefs) for site in sites]
  products = []
  for _, group in itertools.groupby(mixes, key=lambda mix: mix.shape[-1]):
    products += spectra.composites(list(group))
  return [
    _measure_site(site, mix, product)
    for site, mix, product in zip(sites, mixes, products, strict=True)
  ]


def is_residual(sites: Sequence[Site]) -> bool:
  """Returns whether every site computes `x + F(x)`: one stream, all weights one."""
  return all(
    site.coefs.mix is None
    and site.streams.shape[-2] == 1
    and np.all(site.coefs.read == 1)
    and np.all(site.coefs.write == 1)
    for site in sites
  )


def is_dynamic(sites: Sequence[Site]) -> bool:
  """Returns whether any map of any site differs from token to token."""
  return any(
    x.ndim > 2 for s in sites for x in (s.coefs.read, s.coefs.write, s.coefs.mix) if x is not None
  )


def some_tokens(sites: Sequence[Site], most: int) -> list[Site]:
  """Returns the sites with at most `most` tokens, spread evenly, on one token axis `[t, ...]`."""
  lead = sites[0].streams.shape[:-2]
  count = int(np.prod(lead))
  chosen = np.linspace(0, count - 1, min(most, count)).round().astype(int)

  def pick(x: np.ndarray | None, own: int) -> np.ndarray | None:
    if x is None:
      return None
    x = np.broadcast_to(x, (*lead, *x.shape[x.ndim - own :]))
    return x.reshape(count, *x.shape[len(lead) :])[chosen].astype(np.float64)

  found = []
  for site in sites:
    c = site.coefs
    coefs = Coefs(*(pick(x, 2) for x in (c.read, c.write, c.mix, c.next_read)))
    if c.gates is not None:
      coefs = coefs.replace(gates=dataclasses.replace(c.gates, hidden=pick(c.gates.hidden, 1)))
    inputs = site.branch_input.ndim - len(lead)
    streams, output = pick(site.streams, 2), pick(site.branch_output, 1)
    found.append(Site(coefs, streams, pick(site.branch_input, inputs), output, end=site.end))
  return found


def unfolding(sites: Sequence[Site]) -> tuple[np.ndarray, list[np.ndarray], float]:
  """Unfolds the sites into C(0), and checks it by rebuilding the layers' inputs.

  If a site weights its read by channel, the matrix holds the mean over channels. The check then
  rebuilds that input from the streams, channel by channel.

  Args:
    sites: sites in order, with one token axis (from `some_tokens`).

  Returns:
    `(matrix, sources, error)`: C(0) as `unfold` returns it, the K + 1 sources `[t, d]`, and the
    largest `|rebuilt - actual| / |actual|` over the layers. The error is about rounding if the
    unfolding holds, and about one if it does not (Post-Norm).

  Raises:
    ValueError: if `unfold` refuses the maps, a site has no output, or the streams begin neither as
      copies of one embedding nor as one embedding and zeros.
  """
  if any(site.branch_output is None for site in sites):
    raise ValueError("a connection was read and not written to, or more often than it was written")
  m = sites[0].coefs.write.shape[-1]
  start = sites[0].streams
  embedding = start[..., :m, :].reshape(*start.shape[:-2], -1)
  maps, first = [site.coefs for site in sites], beginning(start, m)
  matrix = unfold(maps, start=first, end=sites[-1].end)
  sources = [embedding, *(site.branch_output for site in sites)]
  rebuilt = list(rebuild(matrix, sources))
  if any(c.gates is not None for c in maps):
    _by_channel(rebuilt, sites, streams_before(maps, first), sources)
  distances = [
    np.linalg.norm(made - site.branch_input) / max(np.linalg.norm(site.branch_input), 1e-30)
    for made, site in zip(rebuilt, sites, strict=False)
  ]
  return matrix, sources, float(max(distances))


def beginning(streams: np.ndarray, m: int) -> np.ndarray | None:
  """Returns how much of each fraction the first streams hold, `[n, m]`, or None for copies.

  Raises:
    ValueError: if the streams are neither copies of one embedding nor one embedding and zeros.
  """
  n = streams.shape[-2]
  if np.allclose(streams, streams[..., np.arange(n) % m, :], rtol=1e-6, atol=0):
    return None
  if np.all(streams[..., m:, :] == 0):
    return np.eye(n, m)
  raise ValueError(
    "streams begin neither as copies of one embedding nor as one embedding and zeros (model.expand)"
  )


def _by_channel(
  rebuilt: list[np.ndarray],
  sites: Sequence[Site],
  held: list[np.ndarray],
  sources: list[np.ndarray],
) -> None:
  """Replaces the rebuilt input of each site that reads by channel, using its own weights."""
  for k, site in enumerate(sites):
    if site.coefs.gates is not None:
      weights = ops.channel_weights(site.streams, site.coefs.gates)[..., 0, :, :]
      streams = np.moveaxis(rebuild(held[k], sources), 0, -2)
      rebuilt[k] = np.sum(np.asarray(weights, np.float64) * streams, axis=-2)


def layer_input(site: Site) -> np.ndarray:
  """Returns the branch input `[..., d]` of a site, the mean if it reads several views."""
  h, lead = site.branch_input, site.streams.ndim - 2
  return h if h.ndim == lead + 1 else np.mean(h, axis=-2, dtype=np.float64)


def _measure_site(site: Site, mix: np.ndarray, composite: np.ndarray) -> dict[str, np.ndarray]:
  found = {}
  for head, matrix in (("", mix), ("composite_", composite)):
    found[f"{head}amax_fwd"], found[f"{head}amax_bwd"] = spectra.amax_gain(matrix)
    found[f"{head}norm_fwd"], found[f"{head}norm_bwd"] = spectra.norm_gain(matrix)
    found[f"{head}sigma"] = spectra.singular_values(matrix)
  found["sigma_max"], found["sigma_min"] = found["sigma"][..., 0], found["sigma"][..., -1]
  found["identity_distance"] = spectra.identity_distance(mix)
  found["energy"] = spectra.energy_shares(site.streams)
  found["effective_read"] = spectra.effective_streams(np.abs(site.coefs.read).sum(-2))
  found["effective_write"] = spectra.effective_streams(np.abs(site.coefs.write).sum(-1))
  found["effective_energy"] = spectra.effective_streams(found["energy"])
  found["stream_cosine"] = spectra.stream_cosine(site.streams)
  return found


def _mix(coefs: Coefs) -> np.ndarray:
  return np.eye(coefs.read.shape[-1]) if coefs.mix is None else np.asarray(coefs.mix, np.float64)
