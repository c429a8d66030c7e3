"""Telemetry: a few numbers about the connections, computed at intervals during training.

Every `train.telemetry_every` steps, a separate program runs the model forward on a few validation
windows. They are always the same windows, so that the curves show the weights and not the text.
Training does not use the results.

P is the product of the mixes of all sites, first to last, for each token. Means are over tokens.

* `hc/amax_fwd`, `hc/amax_bwd`: mean of `max_i |sum_j P_ij|` and of `max_j |sum_i P_ij|` (arXiv
  2512.24880).
* `hc/gain_fwd`, `hc/gain_bwd`: mean of `max_i sum_j |P_ij|` and of `max_j sum_i |P_ij|`.
* `hc/site_amax_fwd`, ...: the same four for the mix of one site, at the site with the largest mean.
* `hc/offdiag`: `sum_{i != j} |mix_ij| / n`, mean over sites and tokens.
* `hc/energy_share_i`: share of stream i in `sum_i |x_i|^2`, where x are the streams that the last
  site reads.
* `hc/stream_rms`: root mean square of the streams that the last site reads.
* `hc/dynamic_ratio`: over all maps that depend on the token, the root mean square distance to the
  map's mean over tokens, divided by the norm of that mean.

Numbers that a network cannot have are left out: products if n changes between sites, and all
numbers for the residual network.
"""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax.connections import Call, observing

LENGTH = 128  # tokens in a window
_SOWN = "telemetry"
_HIGHEST = jax.lax.Precision.HIGHEST
Site = dict[str, jax.Array]


def telemetry(params: Any, batch: dict[str, jax.Array], *, model: nn.Module) -> Site:
  """Computes the numbers of the module's docstring, as float32 scalars. Pure: jit it.

  Args:
    params: parameters of the model.
    batch: `inputs` `[B, L]` and perhaps `segment_ids` `[B, L]`.
    model: a `TransformerLM`.
  """
  with observing(_record):
    _, state = model.apply(
      {"params": params},
      batch["inputs"],
      segment_ids=batch.get("segment_ids"),
      mutable=["intermediates"],
    )
  sites = list(_sites(state.get("intermediates", {})))
  found = {}
  mixed = [site for site in sites if "mix" in site]
  if mixed:
    found |= _mixing(mixed)
  found |= _energies([site for site in sites if site["energy"].shape[-1] > 1])
  return found | _dynamic(sites)


def _record(call: Call, run: Callable) -> Any:
  """Sows the maps and the energy of every stream at each read."""
  out = run(call.streams)
  if call.kind == "read":
    maps = {name: x for name, x in vars(out[1]).items() if x is not None}
    energy = jnp.square(call.streams.astype(jnp.float32))
    energy = jnp.mean(energy, axis=(*range(energy.ndim - 2), energy.ndim - 1))
    site = {"index": jnp.asarray(call.index, jnp.int32), "energy": energy, **maps}
    call.connection.sow("intermediates", _SOWN, site)
  return out


def _sites(node: Any) -> Iterator[Site]:
  """Yields the sown values with a first axis of sites, of length 1 for a layer without scan."""
  for name, child in node.items():
    if name == _SOWN:
      for site in child:
        yield site if site["index"].ndim else jax.tree.map(lambda x: x[None], site)
    elif isinstance(child, dict):
      yield from _sites(child)


def _mixing(sites: list[Site]) -> Site:
  """Returns the gains of P and of single mixes, and `hc/offdiag`; each mix is `[S, ..., n, n]`."""
  found = {}
  each = [_gains(site["mix"]) for site in sites]
  for name in each[0]:
    means = [jnp.mean(gains[name].reshape(len(gains[name]), -1), axis=1) for gains in each]
    found[f"hc/site_{name}"] = jnp.max(jnp.concatenate(means))
  off = [_off_diagonal(site["mix"]) for site in sites]
  found["hc/offdiag"] = jnp.mean(jnp.concatenate([x.reshape(len(x), -1).mean(1) for x in off]))
  if len({site["mix"].shape[-1] for site in sites}) > 1:
    return found
  lead = max((site["mix"].shape[1:] for site in sites), key=len)
  mixes = jnp.concatenate([_spread(site["mix"], lead) for site in sites])
  order = jnp.argsort(jnp.concatenate([site["index"] for site in sites]))

  def multiply(product: jax.Array, mix: jax.Array) -> tuple[jax.Array, None]:
    return jnp.matmul(mix, product, precision=_HIGHEST), None

  mixes = mixes[order]
  product, _ = jax.lax.scan(multiply, mixes[0], mixes[1:])
  return found | {f"hc/{name}": jnp.mean(gain) for name, gain in _gains(product).items()}


def _spread(mix: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Broadcasts a static mix `[S, n, n]` to `[S, *shape]`; leaves a mix with token axes as it is."""
  missing = len(shape) + 1 - mix.ndim
  mix = mix.reshape(len(mix), *(1,) * missing, *mix.shape[1:])
  return jnp.broadcast_to(mix, (len(mix), *shape))


def _gains(p: jax.Array) -> Site:
  size = jnp.abs(p)
  return {
    "amax_fwd": jnp.abs(p.sum(-1)).max(-1),
    "amax_bwd": jnp.abs(p.sum(-2)).max(-1),
    "gain_fwd": size.sum(-1).max(-1),
    "gain_bwd": size.sum(-2).max(-1),
  }


def _off_diagonal(mix: jax.Array) -> jax.Array:
  size = jnp.abs(mix)
  return (size.sum((-2, -1)) - jnp.trace(size, axis1=-2, axis2=-1)) / mix.shape[-1]


def _energies(sites: list[Site]) -> Site:
  """Returns energy shares and RMS of the streams that the last site with several streams reads."""
  counts = {site["energy"].shape[-1] for site in sites}
  if len(counts) != 1:
    return {}
  last = jnp.argmax(jnp.concatenate([site["index"] for site in sites]))
  energy = jnp.concatenate([site["energy"] for site in sites])[last]
  shares = energy / jnp.sum(energy)
  found = {f"hc/energy_share_{i}": shares[i] for i in range(len(shares))}
  return found | {"hc/stream_rms": jnp.sqrt(jnp.mean(energy))}


def _dynamic(sites: list[Site]) -> Site:
  """Returns `hc/dynamic_ratio`: how far maps with token axes are from their mean over tokens."""
  apart, size = [], []
  for site in sites:
    for name in ("read", "write", "mix"):
      if name in site and site[name].ndim > 3:
        tokens = tuple(range(1, site[name].ndim - 2))
        mean = jnp.mean(site[name], axis=tokens, keepdims=True)
        apart.append(jnp.sum(jnp.mean(jnp.square(site[name] - mean), axis=tokens)))
        size.append(jnp.sum(jnp.square(mean)))
  return {"hc/dynamic_ratio": jnp.sqrt(sum(apart) / sum(size))} if apart else {}
