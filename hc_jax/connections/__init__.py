"""Connections: the contract, one file per variant or family, and the table of all variants."""

import functools
from collections.abc import Mapping
from typing import Any

from hc_jax.connections.altup import AltUp as AltUp
from hc_jax.connections.altup_simplified import SimplifiedAltUp as SimplifiedAltUp
from hc_jax.connections.attn_res import AttentionResiduals as AttentionResiduals
from hc_jax.connections.attn_res import DeltaAttentionResiduals as DeltaAttentionResiduals
from hc_jax.connections.base import Connection as Connection
from hc_jax.connections.declare import Param as Param
from hc_jax.connections.ends import Expand as Expand
from hc_jax.connections.ends import Reduce as Reduce
from hc_jax.connections.factory import INHERITED as INHERITED
from hc_jax.connections.factory import ConnectionLike as ConnectionLike
from hc_jax.connections.factory import connection_factory as connection_factory
from hc_jax.connections.factory import connection_fields as connection_fields
from hc_jax.connections.facts import Facts as Facts
from hc_jax.connections.frac import FracConnection as FracConnection
from hc_jax.connections.functions import stream_functions as stream_functions
from hc_jax.connections.gated import GatedConnection as GatedConnection
from hc_jax.connections.gated_residual import GatedExit as GatedExit
from hc_jax.connections.gated_residual import GatedResidual as GatedResidual
from hc_jax.connections.generalized import (
  GeneralizedHyperConnection as GeneralizedHyperConnection,
)
from hc_jax.connections.hyper import HyperConnection as HyperConnection
from hc_jax.connections.identity import IdentityHC as IdentityHC
from hc_jax.connections.kromhc import KromHC as KromHC
from hc_jax.connections.mhc import MHC as MHC
from hc_jax.connections.mhc_lite import MHCLite as MHCLite
from hc_jax.connections.mhc_per_stream import PerStreamMHC as PerStreamMHC
from hc_jax.connections.observe import Call as Call
from hc_jax.connections.observe import observing as observing
from hc_jax.connections.observe import site_name as site_name
from hc_jax.connections.observe import tap as tap
from hc_jax.connections.ohc import OrthogonalHC as OrthogonalHC
from hc_jax.connections.residual import Residual as Residual
from hc_jax.connections.single_pass import SinglePassMHC as SinglePassMHC
from hc_jax.connections.site import init_site as init_site
from hc_jax.connections.site import site_maps as site_maps
from hc_jax.connections.table import declared_decays as declared_decays
from hc_jax.connections.table import declared_names as declared_names
from hc_jax.connections.table import is_free as is_free
from hc_jax.connections.wrap import Wrapped as Wrapped
from hc_jax.connections.wrap import connected as connected
from hc_jax.connections.wrap import wrap as wrap
from hc_jax.connections.x0_lambdas import X0Lambdas as X0Lambdas
from hc_jax.errors import UserError
from hc_jax.paper_names import suggestion

# Every variant, by the name that configs use; `register` adds the variants of users.
CONNECTIONS: dict[str, type[Connection]] = {
  "residual": Residual,
  "hc": HyperConnection,
  "frac": FracConnection,
  "ghc": GeneralizedHyperConnection,
  "altup": AltUp,
  "altup_simplified": SimplifiedAltUp,
  "mhc": MHC,
  "mhc_single_pass": SinglePassMHC,
  "identity": IdentityHC,
  "gated_residual": GatedResidual,
  "mhc_lite": MHCLite,
  "mhc_per_stream": PerStreamMHC,
  "kromhc": KromHC,
  "ohc": OrthogonalHC,
  "x0_lambdas": X0Lambdas,
  "attn_res": AttentionResiduals,
  "attn_res_delta": DeltaAttentionResiduals,
}


def register(name: str, cls: type[Connection]) -> None:
  """Adds a variant of your own to `CONNECTIONS`, for configs, the trainer and every tool.

      class Mine(hc_jax.Connection):
        def coefs(self, streams, index): ...
      hc_jax.register("mine", Mine)              # then --import=the.module on any command

  A class with the same module and name may register again, as when a notebook cell runs twice.

  Args:
    name: the name that configs use, `model.connection.name`.
    cls: a subclass of `Connection` that defines `coefs`, or `declare`, `generate` and `finish`.

  Raises:
    TypeError: if `cls` is not such a class.
    ValueError: if another class has the name, or if a field has another type than the field of
      that name in a registered variant.
  """
  if not (isinstance(cls, type) and issubclass(cls, Connection)):
    raise TypeError(
      f"register({name!r}, {cls!r}): a variant is a subclass of hc_jax.Connection with a method "
      "coefs(self, streams, index)"
    )
  if cls.coefs is Connection.coefs and cls.declare is Connection.declare:
    raise TypeError(
      f"register({name!r}, {cls.__name__}): it must define coefs(streams, index), or declare, "
      "generate and finish"
    )
  taken = CONNECTIONS.get(name, cls)
  if (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
    raise ValueError(
      f"connection {name!r} is taken by {taken.__module__}.{taken.__qualname__}; choose another"
    )
  own = connection_fields(cls)
  for other_name, other in CONNECTIONS.items():
    for field, found in connection_fields(other).items():
      if other_name != name and field in own and own[field].kind is not found.kind:
        raise ValueError(
          f"register({name!r}): the field {field!r} is {own[field].kind.__name__}, but "
          f"{other_name!r} has it as {found.kind.__name__}, and a config has one key for both; "
          "give it another name"
        )
  CONNECTIONS[name] = cls


def connection_class(name: str) -> type[Connection]:
  """Returns the class registered under a name.

  Raises:
    UserError: if the name is unknown.
  """
  if name not in CONNECTIONS:
    raise UserError(
      f"connection {name!r} is unknown; choose one of {', '.join(CONNECTIONS)}"
      f"{suggestion(name, CONNECTIONS)} If it is a variant of your own, name the module that "
      "registers it: --import=my_package.my_file"
    )
  return CONNECTIONS[name]


def make_connection(name: str, fields: Mapping[str, Any] | None = None) -> functools.partial:
  """Returns the connection of that name, as a `functools.partial` of its class.

  Args:
    name: a key of `CONNECTIONS`.
    fields: values of the class's fields, by name. None leaves a field at its default.

  Returns:
    A partial that makes one site's connection: `make_connection("hc")(name="site_0")`.

  Raises:
    UserError: if the name is unknown, the class does not have one of the fields, or it refuses
      their values.
  """
  cls = connection_class(name)
  given = {key: value for key, value in (fields or {}).items() if value is not None}
  if given.get("implementation") == "autodiff":  # as configs of older runs have it
    given = {**given, "implementation": "auto", "derivatives": "autodiff"}
  known = connection_fields(cls)
  for key in given:
    if key not in known:
      raise UserError(
        f"connection {name!r} has no field {key!r}; it has {', '.join(known)}. "
        f"Leave {key} unset, or choose a connection that has it"
      )
  try:
    cls(**given, parent=None).check()
  except ValueError as error:
    raise UserError(str(error)) from error
  return functools.partial(cls, **given)
