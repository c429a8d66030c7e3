"""What connections do while they are trained: a few numbers, by a program of its own.

Every `train.telemetry_every` steps the model runs forward on a few validation windows, always the
same, so that the curves show the weights and not the text. Nothing of it goes back into training.

With P the product of the mixes of all sites, first to last, per token; means are over tokens:

* `hc/amax_fwd`, `hc/amax_bwd`: `max_i |sum_j P_ij|`, `max_j |sum_i P_ij|` (arXiv 2512.24880), mean;
* `hc/gain_fwd`, `hc/gain_bwd`: `max_i sum_j |P_ij|`, `max_j sum_i |P_ij|`, mean;
* `hc/site_amax_fwd`, ...: the same four of single mixes, the mean of the site where it is largest;
* `hc/offdiag`: `sum_{i != j} |mix_ij| / n`, mean over sites and tokens;
* `hc/energy_share_i`: share of stream i in `sum_i |x_i|^2`, of what the last site reads;
* `hc/stream_rms`: root mean square of these streams;
* `hc/dynamic_ratio`: of all maps that have the axes of the tokens, the root mean square distance
  from their mean over tokens / the norm of that mean, over all sites.

What a network does not have is left out: products where n changes, everything for the residual.
"""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax.connections import Call, observing

LENGTH = 128  # tokens of a window
_SOWN = "telemetry"
_HIGHEST = jax.lax.Precision.HIGHEST
Site = dict[str, jax.Array]


def telemetry(params: Any, batch: dict[str, jax.Array], *, model: nn.Module) -> Site:
  """The numbers above, float32 scalars; pure, jit it with the model bound.

  Args:
    params: of the model.
    batch: `inputs` `[B, L]` and perhaps `segment_ids`.
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
  """Sows, at each read, the maps and the energy of every stream."""
  out = run(call.streams)
  if call.kind == "read":
    maps = {name: x for name, x in vars(out[1]).items() if x is not None}
    energy = jnp.square(call.streams.astype(jnp.float32))
    energy = jnp.mean(energy, axis=(*range(energy.ndim - 2), energy.ndim - 1))
    site = {"index": jnp.asarray(call.index, jnp.int32), "energy": energy, **maps}
    call.connection.sow("intermediates", _SOWN, site)
  return out


def _sites(node: Any) -> Iterator[Site]:
  """What was sown, each with an axis of sites in front: of the layers that are scanned, or one."""
  for name, child in node.items():
    if name == _SOWN:
      for site in child:
        yield site if site["index"].ndim else jax.tree.map(lambda x: x[None], site)
    elif isinstance(child, dict):
      yield from _sites(child)


def _mixing(sites: list[Site]) -> Site:
  """Gains of the product and of its factors, and what leaves the diagonal; mixes `[S, ...]`."""
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
  """`[S, n, n]` to the token axes of the others; those that have them stay."""
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
  """Of the streams that the last site with several reads."""
  counts = {site["energy"].shape[-1] for site in sites}
  if len(counts) != 1:
    return {}
  last = jnp.argmax(jnp.concatenate([site["index"] for site in sites]))
  energy = jnp.concatenate([site["energy"] for site in sites])[last]
  shares = energy / jnp.sum(energy)
  found = {f"hc/energy_share_{i}": shares[i] for i in range(len(shares))}
  return found | {"hc/stream_rms": jnp.sqrt(jnp.mean(energy))}


def _dynamic(sites: list[Site]) -> Site:
  """How far maps are from their mean over tokens, where they have the axes of the tokens."""
  apart, size = [], []
  for site in sites:
    for name in ("read", "write", "mix"):
      if name in site and site[name].ndim > 3:
        tokens = tuple(range(1, site[name].ndim - 2))
        mean = jnp.mean(site[name], axis=tokens, keepdims=True)
        apart.append(jnp.sum(jnp.mean(jnp.square(site[name] - mean), axis=tokens)))
        size.append(jnp.sum(jnp.square(mean)))
  return {"hc/dynamic_ratio": jnp.sqrt(sum(apart) / sum(size))} if apart else {}
