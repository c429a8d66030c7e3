"""Connections as Flax NNX modules: `hc_jax.nnx.HyperConnection(d, index, rngs=rngs)`.

Every class of `hc_jax.CONNECTIONS` has a class of the same name here. It has the same fields,
parameters as `nnx.Param`s under the same names, and bitwise the same results.
"""

import functools
from typing import Any, ClassVar

import jax
from flax import nnx

from hc_jax import connections, ops
from hc_jax.coefs import Coefs


class Connection(nnx.Module):
  """A residual site of an NNX model. It wraps the Linen connection of the same name.

      connection = hc_jax.nnx.HyperConnection(d, index, num_streams=4, rngs=rngs)
      h, coefs = connection(streams)
      streams = connection.write(streams, branch(h), coefs)

  Attributes:
    linen: the Linen class.
    module: the Linen connection, which holds the fields and no parameters.
    index: number of the site in the network, from 0.
  """

  linen: ClassVar[type[connections.Connection]]

  def __init__(
    self, d_model: int, index: int | jax.Array, *, rngs: nnx.Rngs, **fields: Any
  ) -> None:
    """Initialises the parameters of one site.

    Args:
      d_model: width of the branch input, d = m * w.
      index: number of the site in the network, from 0; may be traced, as under `nnx.vmap`.
      rngs: random keys; `rngs.params()` makes the initial values.
      **fields: fields of the Linen connection, such as `num_streams=4`.

    Raises:
      ValueError: if the connection refuses its fields, or the fractions do not divide the width.
    """
    self.module = module = self.linen(**fields, parent=None)
    # Within hc_jax.plain_residual a site has no parameters.
    params = {}
    if not ops.is_plain():
      params = connections.init_site(module, rngs.params(), d_model, index)
    # Under nnx.vmap each layer has another number, which therefore is part of its state.
    self.index = nnx.Variable(index) if isinstance(index, jax.Array) else index
    self.names = tuple(params)
    for name, value in params.items():
      setattr(self, name, nnx.Param(value))

  def __call__(
    self,
    streams: jax.Array,
    *,
    read: jax.Array | None = None,
    dtype: jax.typing.DTypeLike | None = None,
  ) -> tuple[jax.Array, Coefs]:
    """Computes the branch input and the maps; see `hc_jax.Connection.__call__`."""
    index = self.index[...] if isinstance(self.index, nnx.Variable) else self.index
    params = {name: getattr(self, name)[...] for name in self.names}
    carried = {} if read is None else {"read": read}
    return self.module.apply({"params": params}, streams, index, dtype=dtype, **carried)

  def write(self, streams: jax.Array, branch_output: jax.Array, coefs: Coefs) -> jax.Array:
    """Computes the next streams; see `hc_jax.Connection.write`."""
    params = {name: getattr(self, name)[...] for name in self.names}
    return self.module.apply({"params": params}, streams, branch_output, coefs, method="write")


@functools.cache
def of(linen: type[connections.Connection]) -> type[Connection]:
  """Returns the NNX class of a Linen connection class, which may be a variant of your own."""
  body = {"linen": linen, "__doc__": linen.__doc__, "__module__": __name__}
  return type(Connection)(linen.__name__, (Connection,), body)


def is_nnx(model: Any) -> bool:
  """Returns whether the model is an NNX module."""
  return isinstance(model, nnx.Module)


def as_residual(model: nnx.Module) -> nnx.Module:
  """Returns a copy of an NNX model with every connection a plain residual.

  The copy has no parameters of connections; all others are copied under their names. Only its
  `__call__` runs as a residual network: run other methods within `hc_jax.plain_residual`. The model
  itself does not change. `hc_jax.as_residual` takes Linen and NNX models, and refuses others.
  """
  plain = nnx.clone(model)
  for _, module in nnx.iter_modules(plain):
    if isinstance(module, Connection):
      for name in module.names:
        delattr(module, name)
      module.names = ()
  plain.__class__ = _plain_class(type(model))
  return plain


@functools.cache
def _plain_class(cls: type[nnx.Module]) -> type[nnx.Module]:
  """Returns the class of the same name whose calls run within `plain_residual`."""

  def call(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
    with ops.plain_residual():
      return cls.__call__(self, *args, **kwargs)

  body = {"__call__": call, "__doc__": cls.__doc__, "__module__": cls.__module__}
  return type(cls)(cls.__name__, (cls,), body)


class Functional:
  """An NNX model as a pair of pure functions, `init` and `apply`, as a Linen module has them.

  Connections are named by their paths in the model, "blocks/0/connection".

  Attributes:
    params: values of the model's `nnx.Param`s, in nested dicts.
  """

  def __init__(self, model: nnx.Module) -> None:
    """Wraps a copy of the model; the model itself does not change."""
    model = nnx.clone(model)
    for path, module in nnx.iter_modules(model):
      if isinstance(module, Connection):
        module.module = module.module.clone(name="/".join(map(str, path)) or None)
    self._graph, self._params, self._rest = nnx.split(model, nnx.Param, ...)
    self.params = nnx.to_pure_dict(self._params)

  def init(self, *_: Any, **__: Any) -> dict[str, Any]:
    """Returns the model's own parameters; all arguments are ignored."""
    return {"params": self.params}

  def apply(
    self,
    variables: dict[str, Any],
    *args: Any,
    rngs: Any = None,
    mutable: Any = False,
    **kwargs: Any,
  ) -> Any:
    """Calls the model with the parameters of `variables`.

    Each call starts from the other state (random keys, batch statistics) as it was when the model
    was wrapped, and drops its updates: equal arguments give equal results.

    Args:
      variables: `{"params": ...}`, as `init` returns them. Parameters that are left out keep the
        model's own values, and other collections are ignored.
      *args: arguments of the model.
      rngs: not used, because the model has keys of its own.
      mutable: as in Linen: unless False, the result is the pair (output, {}).
      **kwargs: keyword arguments of the model; `method` is not supported.

    Raises:
      KeyError: if `variables` has no "params".
      ValueError: if a parameter is not one of the model's.
    """
    del rngs
    state = jax.tree.map(lambda leaf: leaf, self._params)
    nnx.replace_by_pure_dict(state, variables["params"])
    out = nnx.merge(self._graph, state, jax.tree.map(lambda leaf: leaf, self._rest))(
      *args, **kwargs
    )
    return out if mutable is False else (out, {})


def __getattr__(name: str) -> type[Connection]:
  classes = {cls.__name__: cls for cls in connections.CONNECTIONS.values()}
  if name not in classes:
    raise AttributeError(f"hc_jax.nnx has no {name!r}; it has {', '.join(classes)}")
  return of(classes[name])
