"""Stream ablation: change of the output when one stream is zeroed before one site."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax.analysis.collect import Site
from hc_jax.connections import Call, observing
from hc_jax.functional import functional

NOWHERE = -1  # no site has this index, so that the same compiled program gives the clean run


def ablate_streams(
  model: Any, params: Any, sites: Mapping[str, Site], *args: Any, **kwargs: Any
) -> np.ndarray:
  """Computes KL(clean || ablated) of the output distribution, for every site and stream.

  Cell (l, s) sets stream s to zero in the input of site l: neither its read nor its mix sees the
  stream. Everything after that runs normally, also the dynamic maps of site l and all writes to
  stream s. The number is `mean over tokens of sum_v p_v (log p_v - log q_v)` in nats per token,
  where p is the softmax of the clean output and q that of the ablated output. It is zero if nothing
  reads stream s before it is overwritten. With one stream (the residual), zeroing erases the
  embedding and all outputs before site l.

  arXiv 2603.14833 zeroes streams too, but keeps the clean run's maps; here they are recomputed.

  One program is compiled and run `1 + K n` times, so pass a few hundred tokens.

  Args:
    model: any Linen or NNX module with connections of this package that returns logits `[..., V]`.
    params: parameters of the model; None takes those of an NNX model itself.
    sites: the K sites of this model from `collect_sites`; their indices and stream counts are used.
    *args: positional arguments of the model's call, such as tokens.
    **kwargs: keyword arguments of the model's call.

  Returns:
    `[K, n]` float64 in the order of `sites`, n the largest number of streams; NaN where a site has
    fewer streams.

  Raises:
    TypeError: if `model` is neither a Linen nor an NNX module.
    ValueError: if a site has no index, or two sites were called with the same index.
  """
  model = functional(model)
  params = model.params if params is None else params
  indices = [_index(name, site) for name, site in sites.items()]
  for i, index in enumerate(indices):
    if index in indices[:i]:
      names = [name for name, k in zip(sites, indices, strict=True) if k == index]
      raise ValueError(
        f"{names[0]} and {names[1]} were both called with index {index}: give every connection the "
        "number of its sublayer, connection(streams, index)"
      )

  @jax.jit
  def log_probabilities(params: Any, index: Any, stream: Any) -> jax.Array:
    with observing(_zeroing(index, stream)):
      logits = model.apply({"params": params}, *args, **kwargs)
    return jax.nn.log_softmax(logits.astype(jnp.float32))

  clean = log_probabilities(params, NOWHERE, 0)
  counts = [site.streams.shape[-2] for site in sites.values()]
  found = np.full((len(counts), max(counts)), np.nan)
  for k, (index, count) in enumerate(zip(indices, counts, strict=True)):
    for stream in range(count):
      found[k, stream] = _divergence(clean, log_probabilities(params, index, stream))
  return found


@jax.jit
def _divergence(clean: jax.Array, ablated: jax.Array) -> jax.Array:
  """Computes the mean over tokens of KL(clean || ablated) from log probabilities `[..., V]`."""
  return jnp.mean(jnp.sum(jnp.exp(clean) * (clean - ablated), axis=-1))


def _index(name: str, site: Site) -> int:
  if site.index is None:
    raise ValueError(f"{name} has no index; pass the sites that collect_sites returned")
  return site.index


def _zeroing(index: Any, stream: Any) -> Callable:
  """Returns an observer that zeroes one stream of one site, for both its read and its write."""

  def zero(call: Call, run: Callable) -> Any:
    here = jnp.arange(call.streams.shape[-2]) == stream
    zeroed = here & (jnp.asarray(call.index) == index)
    return run(jnp.where(zeroed[:, None], jnp.zeros_like(call.streams), call.streams))

  return zero
