"""FLOPs of a function, counted in its jaxpr; nothing is compiled or run."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

# These primitives count one FLOP per element of the result. Moving and converting numbers is free.
_ARITHMETIC = {
  *("add", "add_any", "sub", "mul", "div", "max", "min", "neg", "abs", "sign", "cumsum"),
  *("exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "erf", "sin", "cos"),
  *("rsqrt", "sqrt", "square", "integer_pow", "pow"),
}


def count_flops(function: Callable, *args: Any) -> int:
  """Counts the FLOPs of `function(*args)` by tracing it; a multiply-add is two FLOPs.

  Matrix products, convolutions and reductions count, and one FLOP per element of common arithmetic
  (add, mul, div, exp, tanh, sqrt, ...) on floating-point numbers. Everything else is free. The body
  of a scan counts as often as it runs, and a conditional as its more expensive branch. The body of
  a while loop counts once, because its number of steps is not known.

  Args:
    function: function of arrays that JAX can trace. What JAX raises while it traces is raised here.
    *args: trees of arrays or `jax.ShapeDtypeStruct`s; values are not used.

  Returns:
    The number of FLOPs, an int.
  """
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
  return sum(map(_equation, jaxpr.eqns))


def _equation(eqn: core.JaxprEqn) -> int:
  name, params = eqn.primitive.name, eqn.params
  if name == "dot_general":
    contracted = params["dimension_numbers"][0][0]
    shape = eqn.invars[0].aval.shape
    return 2 * _size(eqn.outvars[0]) * math.prod(shape[axis] for axis in contracted)
  if name == "conv_general_dilated":
    kernel = eqn.invars[1].aval.shape
    outputs = kernel[params["dimension_numbers"].rhs_spec[0]]  # the channels that it makes
    return 2 * _size(eqn.outvars[0]) * (math.prod(kernel) // outputs)
  if name == "reduce":  # a function of one element of every operand
    return _size(eqn.invars[0]) * _count(params["jaxpr"].jaxpr)
  if name == "scan":
    return params["length"] * _count(params["jaxpr"].jaxpr)
  if name == "cond":
    return max(_count(branch.jaxpr) for branch in params["branches"])
  if name == "while":
    return _count(params["body_jaxpr"].jaxpr)
  if inner := [value for value in params.values() if hasattr(value, "eqns")]:
    return sum(_count(getattr(value, "jaxpr", value)) for value in inner)
  if not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact):
    return 0  # because integers are counters and indices
  if name.startswith("reduce_") and name != "reduce_precision":
    return _size(eqn.invars[0])
  return _size(eqn.outvars[0]) if name in _ARITHMETIC else 0


def _size(variable: Any) -> int:
  return math.prod(variable.aval.shape)
