"""Stream ablation: what the output loses when one stream is zeroed before one layer."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax.analysis.collect import Site
from hc_jax.connections import Call, observing
from hc_jax.functional import functional

NOWHERE = -1  # a site that no network has: the clean run, by the same program


def ablate_streams(
  model: Any, params: Any, sites: Mapping[str, Site], *args: Any, **kwargs: Any
) -> np.ndarray:
  """KL(clean || ablated) of the output distribution, for every site and stream.

  Cell (l, s): the streams that site l takes have stream s set to zero, so that neither its read nor
  its mix sees it. Everything after runs as it does: branches, dynamic maps (also those of site l)
  and writes, so that what site l and later ones write to stream s is there again. The number is
  `mean over tokens of sum_v p_v (log p_v - log q_v)`, p the softmax of the clean output, q of the
  ablated one; nats per token. It is zero where nothing reads stream s before it is overwritten.
  With one stream (the residual) zeroing it erases the embedding and all layers before l: the
  network starts at layer l from nothing.

  arXiv 2603.14833 zeroes streams likewise and keeps the maps of the clean run; here they are live.

  One program is compiled and run `1 + K n` times; give it a few hundred tokens.

  Args:
    model: any Linen or NNX module with connections of this package that gives logits `[..., V]`.
    params: parameters of the model; for NNX None takes its own.
    sites: of `collect_sites` of the same model; their names, indices and numbers of streams count.
    *args: what the model is called with, tokens say.
    **kwargs: likewise.

  Returns:
    `[K, n]` float64 in the order of `sites`; NaN where a site has fewer streams than n.

  Raises:
    TypeError: if it is neither kind of module.
    ValueError: if two sites were called with one index, and cannot be told apart.
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
  """The mean over tokens of KL(clean || ablated), of log probabilities `[..., V]`."""
  return jnp.mean(jnp.sum(jnp.exp(clean) * (clean - ablated), axis=-1))


def _index(name: str, site: Site) -> int:
  if site.index is None:
    raise ValueError(f"{name} has no index; take the sites of collect_sites")
  return site.index


def _zeroing(index: Any, stream: Any) -> Callable:
  """Returns an observer that zeroes one stream that one site takes, in its read and its write."""

  def zero(call: Call, run: Callable) -> Any:
    here = jnp.arange(call.streams.shape[-2]) == stream
    zeroed = here & (jnp.asarray(call.index) == index)
    return run(jnp.where(zeroed[:, None], jnp.zeros_like(call.streams), call.streams))

  return zero
