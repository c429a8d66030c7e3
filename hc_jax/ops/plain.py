"""The switch by which a model with connections runs as its own plain residual network."""

import contextlib

import jax

# A context that JAX's tracing knows: it is in the key of every compilation cache, so a function
# that was compiled without the switch is never mistaken for one that was compiled with it.
_PLAIN = jax.make_user_context(default_value=False)


def plain_residual() -> contextlib.AbstractContextManager:
  """Within it every connection is a plain residual, `x' = x + F(x)`, without touching any model.

      with hc_jax.plain_residual():
        variables = model.init(key, x)         # no parameters of connections
        y = model.apply(variables, x)          # x + F(x), one stream

  `expand` makes one stream of the whole width whatever it is asked for, connections read it and add
  the branch output to it, own no parameters and ask nothing of their variant, and `reduce` takes
  it. All other parameters keep their names, so those of the model with connections can be given
  too. Compiled functions may be called inside and outside: JAX compiles them once for each.
  """
  return _PLAIN(True)


def is_plain() -> bool:
  """Whether `plain_residual` is in force here."""
  return _PLAIN.value
