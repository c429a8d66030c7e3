"""Collection of maps, streams, inputs and outputs of every connection in a forward pass."""

import contextlib
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hc_jax.analysis.record import record_sites
from hc_jax.analysis.site import Site as Site
from hc_jax.analysis.site import end_of
from hc_jax.coefs import Coefs
from hc_jax.connections import Call, observing
from hc_jax.functional import functional

# Scanned layers are stacked in one module named "layers"; unrolled layers end in their number.
_STACKED, _NUMBERED = "layers", re.compile(r"(.*)_(\d+)$")
# Names under which values are sown, in addition to a connection's own "coefs".
_SOWN = {
  name: f"analysis_{name}" for name in ("streams", "branch_input", "branch_output", "index", "end")
}


def collect_sites(model: Any, params: Any, *args: Any, **kwargs: Any) -> dict[str, Site]:
  """Runs a model once and returns the maps and activations of each connection in it.

  Works on any Flax model that holds connections of this package, scanned or unrolled. The streams
  of all sites are held in memory at once, `tokens * sites * (n + 2) * d` numbers: a few thousand
  tokens are enough.

  Args:
    model: any Linen or NNX module.
    params: parameters of the model; None takes those of an NNX model itself.
    *args: positional arguments of the model's call, such as tokens.
    **kwargs: keyword arguments of the model's call.

  Returns:
    A `Site` for each connection, by name, in the order of the forward pass. Names are
    "layer_0/attn_connection", ... in Linen and paths such as "blocks/0/connection" in NNX. A
    connection that is called several times has "/call_0", "/call_1", ... after its name.

  Raises:
    TypeError: if `model` is neither a Linen nor an NNX module.
    ValueError: if no connection of this package ran, or (NNX) if the output does not depend on one.
  """
  if not isinstance(model, nn.Module):
    return _recorded(model, params, args, kwargs)
  found = {}
  for name, sown in _collect(model, params, args, kwargs, _record).items():
    site = Site(sown["coefs"], *(sown.get(key) for key in _SOWN.values()))
    found[name] = dataclasses.replace(site, index=None if site.index is None else int(site.index))
  return found


def collect_coefs(model: Any, params: Any, *args: Any, **kwargs: Any) -> dict[str, Coefs]:
  """Runs a model once and returns only the maps of its connections, which needs less memory.

  Args:
    model: any Linen or NNX module.
    params: parameters of the model; None takes those of an NNX model itself.
    *args: positional arguments of the model's call, such as tokens.
    **kwargs: keyword arguments of the model's call.

  Returns:
    `Coefs` by site, named and ordered as in `collect_sites`. Static maps are matrices, dynamic maps
    have the token axes in front.

  Raises:
    TypeError: if `model` is neither a Linen nor an NNX module.
    ValueError: if no connection of this package ran.
  """
  if not isinstance(model, nn.Module):
    sites = _recorded(model, params, args, kwargs)
    return {name: site.coefs for name, site in sites.items()}
  return {name: sown["coefs"] for name, sown in _collect(model, params, args, kwargs, None).items()}


def _collect(
  model: nn.Module, params: Any, args: tuple, kwargs: dict, record: Callable | None
) -> dict[str, dict[str, Any]]:
  @jax.jit
  def run(params: Any, args: tuple, kwargs: dict) -> Any:
    listen = observing(record) if record else contextlib.nullcontext()
    with listen:
      return model.apply({"params": params}, *args, **kwargs, mutable=["intermediates"])[1]

  sown = run(params, args, kwargs).get("intermediates", {})
  sites = _sites(jax.device_get(sown), ())
  if not sites:
    raise ValueError(
      f"{type(model).__name__} ran without a connection of hc_jax: none sowed its coefficients "
      "(if the model uses nn.scan, pass it variable_axes={'intermediates': 0})"
    )
  return dict(sites)


def _recorded(model: Any, params: Any, args: tuple, kwargs: dict) -> dict[str, Site]:
  """Collects sites by callbacks, because connections in an NNX model cannot sow."""
  made = functional(model)
  found = record_sites(made.apply, made.params if params is None else params, args, kwargs)
  if not found:
    raise ValueError(f"{type(model).__name__} ran without a connection of hc_jax")
  return found


def _record(call: Call, run: Callable) -> Any:
  """Sows streams, branch input and branch output; the connection itself sows its "coefs"."""
  out = run(call.streams)
  if call.kind == "write":
    sow = {"branch_output": call.branch_output}
  else:
    index = jnp.asarray(call.index, jnp.int32)
    sow = {"streams": call.streams, "branch_input": out[0], "index": index}
    if (end := end_of(call)) is not None:
      sow["end"] = jnp.asarray(end)
  for name, value in sow.items():
    call.connection.sow("intermediates", _SOWN[name], value)
  return out


def token_mean(coefs: Coefs) -> Coefs:
  """Returns the maps averaged over all token axes, float64; a mix of None becomes the identity.

  Args:
    coefs: maps read `[..., v, n]`, write `[..., n, m]` and mix `[..., n, n]` or None.

  Returns:
    `Coefs` with read `[v, n]`, write `[n, m]` and mix `[n, n]`.
  """

  def mean(x: np.ndarray) -> np.ndarray:
    return np.mean(np.asarray(x, np.float64), axis=tuple(range(x.ndim - 2)))

  mix = np.eye(coefs.read.shape[-1]) if coefs.mix is None else mean(coefs.mix)
  ahead = None if coefs.next_read is None else mean(coefs.next_read)
  return Coefs(mean(coefs.read), mean(coefs.write), mix, ahead)


def _sites(node: Any, path: tuple[str, ...], first: int = 0) -> list[tuple[str, Any]]:
  """Lists sown values by site, depth first, numbered modules in the order of their numbers.

  A stacked module gives one entry for each layer, numbered from `first`. Numbers continue from
  `segment_0` to `segment_1` and so on.
  """
  found = []
  for name in sorted(node, key=_order):
    child = node[name]
    if name == "coefs":
      calls = _calls(child)
      names = [path if len(calls) == 1 else (*path, f"call_{i}") for i in range(len(calls))]
      values = {"coefs": calls}
      # Outputs cannot be assigned to calls if some calls of a connection were not written to.
      values |= {key: _calls(node[key]) for key in _SOWN.values() if key in node}
      values = {key: v for key, v in values.items() if len(v) == len(calls)}
      found += [("/".join(n), {k: v[i] for k, v in values.items()}) for i, n in enumerate(names)]
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


def _calls(sown: Any) -> tuple:
  return sown if isinstance(sown, tuple) else (sown,)


def _order(name: str) -> tuple[str, int]:
  numbered = _NUMBERED.match(name)
  return (numbered[1], int(numbered[2])) if numbered else (name, 0)
