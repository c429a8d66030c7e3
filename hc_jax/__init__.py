"""Hyper-connections for JAX and Flax: `X' = mix @ X + write @ F(read @ X)`.

Importing it imports nothing else: a name is fetched from its module when it is first asked for, and
so are the modules themselves (`hc.models`, `hc.nnx`, `hc.train`).
"""

import importlib as _importlib
import sys as _sys
from typing import TYPE_CHECKING
from typing import Any as _Any

if TYPE_CHECKING:  # for type checkers; a test compares it with the table below
  from hc_jax import analysis as analysis
  from hc_jax import config as config
  from hc_jax import connections as connections
  from hc_jax import models as models
  from hc_jax import nnx as nnx
  from hc_jax import ops as ops
  from hc_jax import testing as testing
  from hc_jax import train as train
  from hc_jax.coefs import Coefs as Coefs
  from hc_jax.connections import CONNECTIONS as CONNECTIONS
  from hc_jax.connections import MHC as MHC
  from hc_jax.connections import AltUp as AltUp
  from hc_jax.connections import AttentionResiduals as AttentionResiduals
  from hc_jax.connections import Connection as Connection
  from hc_jax.connections import DeltaAttentionResiduals as DeltaAttentionResiduals
  from hc_jax.connections import Expand as Expand
  from hc_jax.connections import FracConnection as FracConnection
  from hc_jax.connections import GatedExit as GatedExit
  from hc_jax.connections import GatedResidual as GatedResidual
  from hc_jax.connections import GeneralizedHyperConnection as GeneralizedHyperConnection
  from hc_jax.connections import HyperConnection as HyperConnection
  from hc_jax.connections import IdentityHC as IdentityHC
  from hc_jax.connections import KromHC as KromHC
  from hc_jax.connections import MHCLite as MHCLite
  from hc_jax.connections import OrthogonalHC as OrthogonalHC
  from hc_jax.connections import PerStreamMHC as PerStreamMHC
  from hc_jax.connections import Reduce as Reduce
  from hc_jax.connections import Residual as Residual
  from hc_jax.connections import SimplifiedAltUp as SimplifiedAltUp
  from hc_jax.connections import SinglePassMHC as SinglePassMHC
  from hc_jax.connections import X0Lambdas as X0Lambdas
  from hc_jax.connections import connected as connected
  from hc_jax.connections import init_site as init_site
  from hc_jax.connections import make_connection as make_connection
  from hc_jax.connections import register as register
  from hc_jax.connections import site_maps as site_maps
  from hc_jax.connections import stream_functions as stream_functions
  from hc_jax.connections import wrap as wrap
  from hc_jax.errors import UserError as UserError
  from hc_jax.ops import expand as expand
  from hc_jax.ops import plain_residual as plain_residual
  from hc_jax.ops import read as read
  from hc_jax.ops import reduce as reduce
  from hc_jax.ops import write as write
  from hc_jax.params import ParamCount as ParamCount
  from hc_jax.params import decay_mask as decay_mask
  from hc_jax.params import param_count as param_count
  from hc_jax.residual_network import as_residual as as_residual

__version__ = "0.2.0"

_MODULES = {
  "coefs": "Coefs",
  "connections": """
    CONNECTIONS MHC AltUp AttentionResiduals Connection DeltaAttentionResiduals Expand
    FracConnection GatedExit GatedResidual GeneralizedHyperConnection HyperConnection IdentityHC
    KromHC MHCLite OrthogonalHC PerStreamMHC Reduce Residual SimplifiedAltUp SinglePassMHC
    X0Lambdas connected init_site make_connection register site_maps stream_functions wrap""",
  "errors": "UserError",
  "ops": "expand plain_residual read reduce write",
  "params": "ParamCount decay_mask param_count",
  "residual_network": "as_residual",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = ["models", *_HOME]


if not TYPE_CHECKING:  # to a type checker it would make every misspelt name a name

  def __getattr__(name: str) -> _Any:
    if name in _HOME:
      value = getattr(_importlib.import_module(f"hc_jax.{_HOME[name]}"), name)
      globals()[name] = value
      return value
    if not name.startswith("_"):
      try:
        return _importlib.import_module(f"hc_jax.{name}")
      except ModuleNotFoundError as error:
        if error.name != f"hc_jax.{name}":  # a package that is not installed
          raise
    text = f"module 'hc_jax' has no attribute {name!r}"
    from hc_jax.paper_names import named_here

    if (ours := named_here(name)) is not None:  # `obj` alone: with a name Python adds its own hint
      connection, _, fields = ours.partition(" ")
      found = __getattr__("connections").CONNECTIONS[connection].__name__
      text = f"{text}; it is hc_jax.{found}{fields and f' {fields}'}"
      raise AttributeError(text, obj=_sys.modules[__name__])
    raise AttributeError(text, name=name, obj=_sys.modules[__name__])


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__} - {"TYPE_CHECKING"})
