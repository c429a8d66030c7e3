"""A switch that runs a model with connections as its plain residual network."""

import contextlib

import jax

# A user context of JAX, because its value is in the key of every compilation cache: a function
# compiled without the switch is never used with it.
_PLAIN = jax.make_user_context(default_value=False)


def plain_residual() -> contextlib.AbstractContextManager:
  """Returns a context in which every connection is a plain residual, `x' = x + F(x)`.

      with hc_jax.plain_residual():
        variables = model.init(key, x)         # no parameters of connections
        y = model.apply(variables, x)          # x + F(x), one stream

  Models need no change. In the context `expand` makes one stream of the whole width, for any number
  of streams and fractions. Connections read it, add the branch output, and own no parameters.
  `reduce` returns it. All other parameters keep their names, so that the parameters of the model
  with connections work too. A jitted function may be called inside and outside the context: JAX
  compiles it once for each. Streams made outside of the context are refused inside (ValueError).
  """
  return _PLAIN(True)


def is_plain() -> bool:
  """Returns whether the code runs in a `plain_residual` context."""
  return _PLAIN.value
