"""The coefficients of every connection of a model, on real tokens."""

import re
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from hc_jax.coefs import Coefs

# Scanned layers are stacked in one module of this name, unrolled ones end in their number.
_STACKED, _NUMBERED = "layers", re.compile(r"(.*)_(\d+)$")


def collect_coefs(model: nn.Module, params: Any, *args: Any, **kwargs: Any) -> dict[str, Coefs]:
  """Runs a model and returns what each of its connections used.

  Works on any Flax model that holds connections of this package, scanned or unrolled.

  Args:
    model: any module.
    params: its parameters.
    *args: what the model is called with, tokens say.
    **kwargs: likewise.

  Returns:
    Coefs by site, in the order of the forward pass: "layer_0/attn_connection", ... Dynamic ones
    have the axes of the tokens.

  Raises:
    ValueError: if the model holds no connection.
  """

  @jax.jit
  def run(params: Any, args: tuple, kwargs: dict) -> Any:
    return model.apply({"params": params}, *args, **kwargs, mutable=["intermediates"])[1]

  sown = run(params, args, kwargs).get("intermediates", {})
  sites = _sites(jax.device_get(sown), ())
  if not sites:
    raise ValueError(
      f"{type(model).__name__} ran without a connection of hc_jax: none sowed its coefficients "
      "(nn.scan needs variable_axes={'intermediates': 0} to let them through)"
    )
  return dict(sites)


def token_mean(coefs: Coefs) -> Coefs:
  """The mean over all tokens: read `[v, n]`, write `[n, v]`, mix `[n, n]`."""

  def mean(x: np.ndarray) -> np.ndarray:
    return np.mean(np.asarray(x, np.float64), axis=tuple(range(x.ndim - 2)))

  mix = np.eye(coefs.read.shape[-1]) if coefs.mix is None else mean(coefs.mix)
  return Coefs(read=mean(coefs.read), write=mean(coefs.write), mix=mix)


def _sites(node: Any, path: tuple[str, ...], first: int = 0) -> list[tuple[str, Coefs]]:
  """Depth first; numbered modules by number, the layers of a stacked one side by side.

  Stacked layers get numbers from `first` on; those of `segment_0`, `segment_1`, ... count through.
  """
  found = []
  for name in sorted(node, key=_order):
    child = node[name]
    if name == "coefs":
      calls = child if isinstance(child, tuple) else (child,)
      names = [path if len(calls) == 1 else (*path, f"call_{i}") for i in range(len(calls))]
      found += [("/".join(n), c) for n, c in zip(names, calls, strict=True)]
    elif name == _STACKED and isinstance(child, dict):
      layers = jax.tree.leaves(child)[0].shape[0]
      for i in range(layers):
        layer = jax.tree.map(lambda x, i=i: x[i], child)
        found += _sites(layer, (*path, f"layer_{first + i}"))
    elif isinstance(child, dict):
      segment = name.startswith("segment_")
      found += _sites(child, (*path, name), first if segment else 0)
      if segment and _STACKED in child:
        first += jax.tree.leaves(child[_STACKED])[0].shape[0]
  return found


def _order(name: str) -> tuple[str, int]:
  numbered = _NUMBERED.match(name)
  return (numbered[1], int(numbered[2])) if numbered else (name, 0)
