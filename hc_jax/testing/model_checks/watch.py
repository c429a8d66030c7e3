"""Recording of every read and write of a model's connections, with their values.

Calls of connections are intercepted while the model is traced. The compiled program passes their
values out by callbacks, in the order of the data. Scanned, rematerialised and jitted layers are
therefore recorded layer by layer.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import axes, ops
from hc_jax import params as hc_params
from hc_jax.coefs import Coefs
from hc_jax.connections import Call, Connection, observing, site_name, tap
from hc_jax.testing.compiled import jit, normal

PyTree = Any
KICK = 0.1


@dataclasses.dataclass(frozen=True)
class Site:
  """A connection of the model, before it runs.

  Attributes:
    name: path in the model.
    connection: unbound copy, which has the fields.
    shapes: shapes of its parameters by name; of one layer if layers are stacked.
    residual_at_init: claim of its facts.
  """

  name: str
  connection: Connection
  shapes: Mapping[str, tuple[int, ...]]
  residual_at_init: float | None


@dataclasses.dataclass(frozen=True)
class Visit:
  """One recorded call of a connection.

  Attributes:
    kind: "read" or "write".
    site: connection that was called.
    turn: number of earlier calls of this kind, which is the layer if layers are scanned.
    index: index passed to a read; -1 for a write.
    streams: streams passed to the call, `[..., n, w]`.
    coefs: coefficients returned by a read, or passed to a write.
    out: branch input returned by a read, or streams returned by a write.
  """

  kind: str
  site: Site
  turn: int
  index: np.ndarray
  streams: np.ndarray
  coefs: Coefs
  out: np.ndarray

  def __str__(self) -> str:
    return f"{self.site.name} (call {self.turn})" if self.turn else self.site.name


class Watched:
  """A model with inputs, which can be run with any parameters.

  Attributes:
    initial: initial parameters, without partitioning metadata.
    kicked: parameters away from their initial values, so that nothing is equal by accident.
    sites: connections by path, filled when the model runs.
  """

  def __init__(
    self,
    model: Any,
    inputs: Sequence[Any],
    kwargs: Mapping[str, Any],
    rngs: Mapping[str, jax.Array],
  ):
    self._model, self._rest, self._kwargs = model, tuple(inputs[1:]), dict(kwargs)
    self._rngs = dict(rngs)
    self.first = inputs[0]
    init = jit(lambda rngs, first: model.init(rngs, first, *self._rest, **self._kwargs))
    variables = axes.unboxed(dict(init(self._rngs, self.first)))
    self.initial = variables.pop("params", {})
    self._others = {name: v for name, v in variables.items() if name != "intermediates"}
    self.kicked = jax.tree_util.tree_map_with_path(_kicked, self.initial)
    self.sites: dict[str, Site] = {}
    self._run, self._grad = jit(self._watched), jit(jax.grad(self._loss))

  def run(
    self,
    params: PyTree,
    first: Any = None,
    *,
    edit: Callable[[int, np.ndarray], np.ndarray] | None = None,
  ) -> tuple[list[np.ndarray], list[Visit]]:
    """Runs the model and returns the leaves of its output, and the recorded calls in order.

    Args:
      params: parameters of the model.
      first: first input, instead of the model's own.
      edit: function `edit(k, streams)` that replaces the result of the k-th write, from 0.
    """
    self._visits, self._edit = [], edit
    outputs = self._run(params, self.first if first is None else first)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(outputs)], self._visits

  def gradients(self) -> dict[str, np.ndarray]:
    """Returns gradients of a weighted sum of the outputs, at the kicked parameters, by path.

    Noise makes the streams of every connection differ, and different weights scale the streams that
    it writes. Otherwise some true gradients would be zero, because all streams are equal or only
    their sum counts.
    """
    return dict(hc_params.named_leaves(self._grad(self.kicked, self.first)))

  def _apply(self, params: PyTree, first: Any, handler: Callable) -> PyTree:
    with observing(handler):
      outputs, _ = self._model.apply(
        {**self._others, "params": params},
        first,
        *self._rest,
        rngs={name: key for name, key in self._rngs.items() if name != "params"},
        mutable=list(self._others),
        **self._kwargs,
      )
    return outputs

  def _watched(self, params: PyTree, first: Any) -> PyTree:
    return self._apply(params, first, self._record)

  def _record(self, call: Call, run: Callable) -> jax.Array | tuple[jax.Array, Coefs]:
    site = self._site(call.connection, call.streams)
    return tap(call, run(call.streams), functools.partial(self._see, site))

  def _see(self, site: Site, call: Call, out: Any) -> Any:
    """Records a call; the compiled program calls this as it runs."""
    same = sum(v.kind == call.kind for v in self._visits if v.site.name == site.name)
    if call.kind == "write":
      if self._edit is not None:
        number = sum(v.kind == "write" for v in self._visits)
        out = np.asarray(self._edit(number, out), out.dtype)
      index, coefs, value = np.int32(-1), call.coefs, out
    else:
      index, (value, coefs) = call.index, out
    self._visits.append(Visit(call.kind, site, same, index, call.streams, coefs, value))
    return out

  def _site(self, connection: Connection, streams: jax.Array) -> Site:
    name = site_name(connection)
    params = axes.unboxed(dict(connection.variables.get("params", {})))
    unbound = connection.clone(parent=None, name=None)
    width = streams.shape[-1] * (1 if ops.is_plain() else unbound.fractions)
    claim = unbound.facts(width).residual_at_init
    site = Site(name, unbound, {key: leaf.shape for key, leaf in params.items()}, claim)
    if not ops.is_plain():
      self.sites[name] = site
    return site

  def _loss(self, params: PyTree, first: Any) -> jax.Array:
    outputs = jax.tree.leaves(self._apply(params, first, _apart))
    floats = [out for out in outputs if jnp.issubdtype(out.dtype, jnp.floating)]
    return sum(
      jnp.sum(out.astype(jnp.float32) * normal(f"loss{i}", *out.shape))
      for i, out in enumerate(floats)
    )


def _apart(call: Call, run: Callable) -> jax.Array | tuple[jax.Array, Coefs]:
  """Runs a call with noise on the streams that it gets, and weights on the streams it writes."""
  streams = call.streams
  lead = (1,) * (streams.ndim - 2)
  noise = normal(call.name, *streams.shape[-2:])
  weights = 1 + 0.3 * normal("weights", streams.shape[-2], 1)
  out = run(streams + noise.reshape(lead + noise.shape).astype(streams.dtype))
  if call.kind == "write":
    return out * weights.reshape(lead + weights.shape).astype(out.dtype)
  return out


def _kicked(path: tuple, leaf: jax.Array) -> jax.Array:
  if not jnp.issubdtype(leaf.dtype, jnp.floating):
    return leaf
  return leaf + (KICK * normal(hc_params.path_name(path), *leaf.shape)).astype(leaf.dtype)
