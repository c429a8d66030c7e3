"""Runs a model and writes down every read and write of its connections, as numbers.

The calls of connections are intercepted while the model is traced, and their values come out of the
compiled program by callbacks, in the order of the data: scanned, rematerialised and jitted layers
are seen layer by layer, as they run.
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
  """What is known of a connection before it runs.

  Attributes:
    name: its path in the model.
    connection: its fields, unbound.
    shapes: of its parameters, of one layer where layers are stacked.
    residual_at_init: as in its facts.
  """

  name: str
  connection: Connection
  shapes: Mapping[str, tuple[int, ...]]
  residual_at_init: float | None


@dataclasses.dataclass(frozen=True)
class Visit:
  """One call of a connection, as it ran.

  Attributes:
    kind: "read" or "write".
    site: which connection.
    turn: how often that connection was read before: the layer, where layers are scanned.
    index: as given; of a read.
    streams: as given, `[..., n, w]`.
    coefs: as returned by a read, as given to a write.
    out: branch input of a read, next streams of a write.
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
  """A model with inputs, to be run with any parameters.

  Attributes:
    initial: its parameters as it makes them, without partitioning metadata.
    kicked: the same away from their initial values, where nothing is equal by accident.
    sites: connections by their path.
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
    """Outputs, and what the connections did.

    Args:
      params: of the model.
      first: its first input.
      edit: `edit(k, streams)` is what the k-th write returns instead.
    """
    self._visits, self._edit = [], edit
    outputs = self._run(params, self.first if first is None else first)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(outputs)], self._visits

  def gradients(self) -> dict[str, np.ndarray]:
    """Of a weighted sum of the outputs, at the kicked parameters, by path.

    Every connection sees streams that differ from one another, and writes to streams of different
    weights: where all streams are equal, or only their sum counts, some true gradients are zero.
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
    """Called by the program as it runs."""
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
  """Gives a connection streams that differ, and writes to them with different weights."""
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
