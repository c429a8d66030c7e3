"""The contract of every variant, and the code that all variants share."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.declare import MAPS, Param, bind
from hc_jax.connections.facts import Facts
from hc_jax.connections.place import check_place
from hc_jax.fields import field, fields_of, problems, values_of

# Methods of a variant that depend on its fields and arguments alone.
PURE = {"declare", "generate", "finish", "check", "facts", "num_params", "frozen", "parts"}
PURE |= {"silent", "num_logits", "num_mix_logits", "mix_of", "mix_of_zeros", "mix_bias", "read_of"}
PURE |= {"exit", "frozen_scales", "distance_at_init", "declare_scales", "scales_of"}


class Connection(nn.Module):
  """One residual site: reads a branch input from the streams and writes the branch output back.

  Per token, with streams X `[n, w]` and a branch F: `X' = mix @ X + write @ F(read @ X)`.

      h, c = connection(streams, index)              # [..., n, w] -> [..., d]
      streams = connection.write(streams, branch(h), c)

  A variant is a subclass in one of two forms. The free form defines one method,
  `coefs(streams, index)`, which may do anything. The declared form defines three pure methods:
  `declare` lists the parameters, `generate` turns their values into a `hc_jax.ops.Generator`, and
  `finish` computes the maps from the generator's few numbers per token. Parameter counts, weight
  decay, kernels and other frameworks follow from these three. `facts` lists the variant's claims.
  A variant owns parameters and no other state, works on any leading axes, and computes the same in
  training and in decoding.

  Attributes:
    num_streams: n, the paper's expansion rate.
    fractions: m, the number of parts into which the width is cut; d = m * w.
    num_views: number of inputs that the branch reads, each with read weights of its own (queries,
      keys and values, say). With more than one the branch input is `[..., num_views, m * w]`.
    implementation: backend of the operations, "auto" or "xla".
    derivatives: "custom" uses derivatives written by hand, "autodiff" JAX's own; both agree to
      rounding, and forward-mode differentiation needs "autodiff".
    partitioned: whether parameters carry the logical names of their axes
      (`flax.linen.LogicallyPartitioned`). None means yes inside a model of this package, and no
      elsewhere.

  Raises:
    ValueError: by `check`, which every call runs, if a field has a value that it does not take.
  """

  # Whether each site reads with the weights that the site before it made, `Coefs.next_read`.
  carries_read: ClassVar[bool] = False
  # Whether the branch input is already normed, so that a block needs no norm before its branch.
  norms_input: ClassVar[bool] = False
  # Kinds of `Expand` and `Reduce` that a model uses where its own fields are unset.
  expand_kind: ClassVar[str] = "copy"
  reduce_kind: ClassVar[str] = "sum"
  # Whether the streams are slots that begin empty and that sites fill one after the other.
  keeps_history: ClassVar[bool] = False
  # Whether the branch is a whole block, which returns the next state and not a change to add.
  branch_is_block: ClassVar[bool] = False
  # Fields of `PLACE` without which a site cannot be used.
  needs: ClassVar[tuple[str, ...]] = ()

  num_streams: int = field(4, least=1)
  fractions: int = field(1, least=1)
  num_views: int = field(1, least=1)
  implementation: str = field("auto", choices=ops.IMPLEMENTATIONS)
  derivatives: str = field("custom", choices=ops.DERIVATIVES)
  partitioned: bool | None = None

  def __init_subclass__(cls, **kwargs: Any) -> None:
    # Without nowrap these methods would fail on unbound modules while Flax tabulates a model.
    for name in PURE & vars(cls).keys():
      nn.nowrap(vars(cls)[name])
    super().__init_subclass__(**kwargs)

  @property
  def slots(self) -> int:
    """Number of rows of `read`: one for each fraction of each view."""
    return self.num_views * self.fractions

  @property
  def has_roles(self) -> bool:
    """Whether streams have different roles: they begin empty, or the network ends in one."""
    return self.expand_kind == "first" or self.reduce_kind in ("first", "backout")

  @property
  def sites_differ(self) -> bool:
    """Whether parameters have different shapes at different sites, so that a scan cannot stack."""
    return False

  @property
  def is_declared(self) -> bool:
    """Whether the variant has the declared form; a class that overrides `coefs` has the free."""
    return type(self).coefs is Connection.coefs

  @nn.nowrap
  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    """Returns the parameters of a site by name, in the order in which they are initialised.

    Args:
      width: w, the width of one stream.
      index: number of the site in the network, from 0; may be traced. Initial values depend on it.

    Raises:
      NotImplementedError: if the class does not define it, as in the free form.
    """
    raise NotImplementedError(
      f"{type(self).__name__} must define coefs(streams, index), or declare, generate and finish"
    )

  @nn.nowrap
  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    """Returns the weights of a site, computed from the values of its parameters.

    Args:
      params: values of the parameters that `declare` lists, float32 by name.
      index: number of the site, as in `declare`.
    """
    raise NotImplementedError(f"{type(self).__name__} must define generate(params, index)")

  @nn.nowrap
  def finish(self, logits: jax.Array | None, small: Any) -> Coefs:
    """Returns the maps of each token, from the projected streams and the small parameters.

    Args:
      logits: projected streams, float32 `[..., n, k]` or `[..., k]`; None without a projection.
      small: `Generator.small`, as `generate` filled it.
    """
    raise NotImplementedError(f"{type(self).__name__} must define finish(logits, small)")

  @nn.nowrap
  def finisher(self) -> "Finish":
    """Returns `finish` as a hashable callable, equal for equal fields and without a Flax scope."""
    return Finish(self.clone(parent=None, name=None))

  @nn.compact
  def generator(self, width: int, index: int | jax.Array) -> ops.Generator:
    """Binds the declared parameters to this module and returns the weights of the site."""
    params = bind(self, self.declare(width, index), bool(self.partitioned))
    return self.generate(params, index)

  def coefs(self, streams: jax.Array, index: int | jax.Array) -> Coefs:
    """Computes the maps of this site. A subclass of the free form overrides it (`@nn.compact`).

    Args:
      streams: `[..., n, w]`.
      index: number of the site in the network, from 0; traced under `nn.scan`.

    Returns:
      Maps with `read` `[..., slots, n]`, `write` `[..., n, fractions]` and `mix` `[..., n, n]`;
      mix None is the identity.
    """
    return ops.coefs(streams, self.generator(streams.shape[-1], index), **self._options())

  @nn.nowrap
  def check(self) -> None:
    """Raises ValueError, with the remedy, if fields have values that they do not take."""
    ops.check_options(self.implementation, self.derivatives)
    if wrong := next(problems(values_of(self), fields_of(type(self))), None):
      raise ValueError(wrong)
    if self.num_streams is not None and self.num_streams < self.fractions:
      raise ValueError(
        f"num_streams={self.num_streams} streams cannot hold fractions={self.fractions}: "
        "num_streams must be at least fractions"
      )

  @nn.nowrap
  def facts(self, d_model: int) -> Facts:
    """Returns the claims of this connection in a model of that width; none by default."""
    del d_model
    return Facts()

  @nn.nowrap
  def exit(self) -> "Connection":
    """Returns the declared connection whose read ends a network, for `Reduce`'s "gated", "exit".

    Raises:
      ValueError: if the variant has no such read.
    """
    raise ValueError(
      f"{type(self).__name__} has no read of its own for the end of a network; leave reduce unset"
    )

  @nn.nowrap
  def num_params(self, d_model: int, index: int = 0) -> int | None:
    """Returns the number of parameters of one site; None for the free form.

    Args:
      d_model: width of the branch input.
      index: number of the site; it matters only where sites differ.
    """
    if not self.is_declared:
      return None
    declared = self.declare(d_model // self.fractions, index)
    return sum(math.prod(param.shape) for param in declared.values())

  @nn.nowrap
  def frozen(self) -> frozenset[str]:
    """Returns the names of the parameters that are frozen on purpose: they get no gradient."""
    if type(self).declare is Connection.declare:
      return frozenset()
    return frozenset(name for name, param in self.declare(1, 1).items() if not param.trains)

  @nn.nowrap
  def silent(self, index: int) -> frozenset[str]:
    """Returns the names of parameters that cannot get a gradient at site `index` of a network."""
    del index
    return frozenset()

  @nn.nowrap
  def parts(self, params: Mapping[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
    """Returns this site's parameters, or their gradients, grouped by the map that they make.

    Args:
      params: arrays by the name of the parameter.

    Returns:
      Parts by name under "read", "mix" and "write", and under "all" those that serve several maps.
      In the free form the parameter's name decides: "read_scale" and "static_read" go to "read".
    """
    # Site 1, because site 0 may lack parameters that all others have.
    declared = {} if type(self).declare is Connection.declare else self.declare(1, 1)
    found = {name: {} for name in MAPS}
    for name, leaf in params.items():
      head = name.removeprefix("static_").split("_")[0]
      free = {head if head in MAPS else "all": leaf}
      for map_, part in (declared[name].parts(leaf) if name in declared else free).items():
        found[map_][name] = part
    return found

  def __call__(
    self,
    streams: jax.Array,
    index: int | jax.Array,
    *,
    read: jax.Array | None = None,
    dtype: jax.typing.DTypeLike | None = None,
  ) -> tuple[jax.Array, Coefs]:
    """Computes the branch input and the maps of this site.

    Args:
      streams: `[..., n, w]`, of a floating-point dtype.
      index: number of the site in the network, a whole number from 0: attention of block l is 2l,
        its feed-forward 2l + 1. Initial values depend on it. May be traced.
      read: `next_read` of the site before, for variants that carry it; None at the first site,
        which reads stream 0.
      dtype: dtype of the branch input; the streams' own by default.

    Returns:
      The branch input `[..., m * w]` (`[..., num_views, m * w]` with several views) and the float32
      maps, which `write` needs.

    Raises:
      ValueError: if the streams are not `num_streams` in number or not of floating point; if
        `check` refuses a field; if it needs `num_sites` and has none; if the read does not fit.
      TypeError: if the index is not a whole number.
    """
    self.check()
    _check_index(index)
    is_plain = ops.is_plain()
    if not is_plain:
      check_place(self, index)
    if is_plain:
      if streams.ndim < 2 or streams.shape[-2] != 1:
        raise ValueError(
          f"{type(self).__name__}: plain_residual() is on, but there are streams {streams.shape} "
          "instead of [..., 1, d]; make them with hc_jax.expand within it too"
        )
    elif streams.ndim < 2 or streams.shape[-2] != self.num_streams:
      raise ValueError(
        f"{type(self).__name__} has num_streams={self.num_streams} and takes streams "
        f"[..., {self.num_streams}, w], but got {streams.shape}; make them with {self._expand()}"
      )
    with jax.named_scope("hc/coefs"):
      coefs = self.plain_coefs() if is_plain else self.coefs(streams, index)
      coefs = self.carry(coefs, streams, read)
      coefs = _named(coefs)
    self.sow("intermediates", "coefs", coefs)
    with jax.named_scope("hc/read"):
      branch_input = ops.read(streams, coefs, dtype, **self._options())
      if self.num_views > 1:
        shape = (self.num_views, branch_input.shape[-1] // self.num_views)
        branch_input = branch_input.reshape(*streams.shape[:-2], *shape)
    return checkpoint_name(branch_input, "branch_input"), coefs

  def write(self, streams: jax.Array, branch_output: jax.Array, coefs: Coefs) -> jax.Array:
    """Computes the next streams: `mix @ X + write @ branch_output`.

    Args:
      streams: the streams that were read, `[..., n, w]`.
      branch_output: `[..., m * w]`, of a floating-point dtype.
      coefs: the maps that the read returned.

    Returns:
      `[..., n, w]` in the streams' dtype.

    Raises:
      ValueError: if the branch output is not of floating point, or not shaped like (one view of)
        the branch input; if the maps do not fit the streams.
    """
    with jax.named_scope("hc/write"):
      branch_output = checkpoint_name(branch_output, "branch_output")
      return ops.write(streams, branch_output, coefs, **self._options())

  @nn.nowrap
  def plain_coefs(self) -> Coefs:
    """Returns the maps of one stream: `x' = x + F(x)`, or `x' = F(x)` if the branch is a block."""
    ones = jnp.ones((self.num_views, 1), jnp.float32)
    mix = jnp.zeros((1, 1), jnp.float32) if self.branch_is_block else None
    return Coefs(read=ones, write=ones[:1], mix=mix)

  @nn.nowrap
  def carry(self, coefs: Coefs, streams: jax.Array, read: jax.Array | None) -> Coefs:
    """Returns maps with the carried read, where the variant carries it.

    Args:
      coefs: maps that this site made; its own read becomes `next_read`.
      streams: `[..., n, w]`.
      read: `next_read` of the site before; None at the first site, which reads stream 0.

    Raises:
      ValueError: if a read is given to a variant that carries none, or has another shape.
    """
    if not self.carries_read:
      if read is not None:
        raise ValueError(
          f"{type(self).__name__} makes its read itself and carries none; leave read unset"
        )
      return coefs
    if ops.is_plain():
      return coefs
    if read is None:
      read = first_read(self.num_streams, self.slots)
    if read.shape[-2:] != coefs.read.shape[-2:]:
      raise ValueError(
        f"{type(self).__name__} reads {coefs.read.shape[-2:]}, but the read that it is given is "
        f"{read.shape}; give it next_read of a site of as many streams and views"
      )
    return coefs.replace(read=read, next_read=coefs.read)

  @nn.nowrap
  def _expand(self) -> str:
    """Returns the call that makes this connection's streams, as text for messages."""
    counts = f"{self.num_streams}{f', {self.fractions}' if self.fractions > 1 else ''}"
    if self.expand_kind == "copy":
      return f"hc_jax.expand(x, {counts})"
    return f'hc_jax.Expand({counts}, kind="{self.expand_kind}")(x)'

  @nn.nowrap
  def _options(self) -> dict[str, str]:
    return {"implementation": self.implementation, "derivatives": self.derivatives}


@dataclasses.dataclass(frozen=True)
class Finish:
  """Method `finish` of a variant as a hashable value: `finish(logits, small) -> Coefs`.

  Attributes:
    connection: the variant, unbound.
  """

  connection: Connection

  def __call__(self, logits: jax.Array | None, small: Any) -> Coefs:
    """Computes the maps; see `Connection.finish`."""
    return self.connection.finish(logits, small)


def _as_coefs(x: jax.Array) -> jax.Array:
  """Returns a map in float32, named for rematerialisation; a slot's number stays an integer."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x
  return checkpoint_name(x.astype(jnp.float32), "coefs")


def _named(coefs: Coefs) -> Coefs:
  """Returns all maps in float32 and named; in gates only the part that is made per token."""
  # A user's own connection may return a class of maps without this field.
  if (gates := getattr(coefs, "gates", None)) is None:
    return jax.tree.map(_as_coefs, coefs)
  gates = gates.replace(hidden=_as_coefs(gates.hidden))
  return jax.tree.map(_as_coefs, coefs.replace(gates=None)).replace(gates=gates)


def _check_index(index: int | jax.Array) -> None:
  if jnp.ndim(index) or not jnp.issubdtype(jnp.result_type(index), jnp.integer):
    raise TypeError(
      f"index={index!r} must be a whole number: which site of the network this is, from 0"
    )


def first_read(num_streams: int, slots: int = 1) -> jax.Array:
  """Returns the read of stream 0 alone, float32 `[slots, n]`."""
  return jnp.tile(jnp.eye(1, num_streams, dtype=jnp.float32), (slots, 1))


def check_one_fraction(connection: Connection) -> None:
  """Raises ValueError, with the remedy, if the connection has more than one fraction."""
  if connection.fractions != 1:
    raise ValueError(
      f"{type(connection).__name__} has one fraction, not fractions={connection.fractions}; leave "
      "it unset: FracConnection cuts the width"
    )
