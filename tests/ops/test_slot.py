"""A write into one slot is the write by a matrix of one row, and touches nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hc_jax import Coefs, ops
from hc_jax.testing.compiled import jit, normal

STREAMS, Y = normal("streams", 2, 3, 4, 8), normal("y", 2, 3, 8)


def maps(gate, slot, lead=()):
  write = jnp.zeros((*lead, 4, 1)).at[..., slot, :].set(gate)
  return Coefs(jnp.ones((1, 4)), write, None)


@pytest.mark.parametrize("derivatives", ops.DERIVATIVES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_values_and_gradients_are_those_of_the_dense_write(derivatives, dtype, lead):
  gate = normal("gate", *lead, 1)
  streams, y = jnp.asarray(STREAMS, dtype), jnp.asarray(Y, dtype)

  def loss(gate, streams, y, slot, dense):
    coefs = maps(gate, 2, lead)
    coefs = coefs if dense else coefs.replace(slot=slot)
    out = ops.write(streams, y, coefs, derivatives=derivatives)
    return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

  run = jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True), static_argnums=4)
  (found, out), (want, dense) = (run(gate, streams, y, jnp.int32(2), d) for d in (False, True))
  np.testing.assert_array_equal(out, dense)
  for a, b in zip(found, want, strict=True):
    np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=1e-5, atol=1e-6)


def test_a_slot_and_a_mix_are_refused():
  coefs = maps(1.0, 0).replace(mix=jnp.eye(4), slot=jnp.int32(0))
  with pytest.raises(ValueError, match="one stream alone, and cannot have a mix"):
    ops.write(STREAMS, Y, coefs)
