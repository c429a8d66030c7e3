"""Tests of the memory kept for the backward pass, against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax.plan import kept

L, W, V = 3, 5, 7
PARAMS = {"w": np.ones((W, W), np.float32), "v": np.ones((W, V), np.float32)}


def batch_of(rows):
  return jax.ShapeDtypeStruct((rows, L, 2, W), jnp.float32)


def found(loss):
  return kept(loss, PARAMS, batch_of, stream=(2, W), vocab_size=V)


def test_inputs_are_no_activations_and_outputs_of_sin_are():
  # sin keeps its cosine; the products keep their operands, except x, which is an argument.
  def loss(params, x):
    h = jnp.sin(x @ params["w"])
    return jnp.sum(jnp.exp(h @ params["v"]))

  row = found(loss)
  streams, logits = L * 2 * W * 4, L * 2 * V * 4
  assert (row.row, row.streams, row.logits) == (2 * streams + logits, 2 * streams, logits)
  assert row.fixed == 0  # v is an argument, which is not kept a second time


def test_rematerialisation_and_weights_in_another_dtype():
  def loss(params, x):
    h = jax.checkpoint(lambda w: jnp.sin(x @ w))(params["w"])
    return jnp.sum(h.astype(jnp.bfloat16) @ params["v"].astype(jnp.bfloat16))

  row = found(loss)
  assert row.row == L * 2 * W * 2  # h in bfloat16; its cosine is recomputed
  assert row.fixed == W * V * 2
