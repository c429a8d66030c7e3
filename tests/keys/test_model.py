"""Every key of the group model changes the program that computes parameters or logits."""

import functools

import jax
import numpy as np
import pytest

from hc_jax import UserError, models
from hc_jax.connections import connection_factory
from tests.keys.table import Row, once, pair, text_of

ROTARY = {"model.positions": "rotary"}
MODEL = {
  "d_model": Row(16),
  "num_layers": Row(2),
  "num_heads": Row(1),
  "num_kv_heads": Row(1),
  "d_ff": Row(12),
  "vocab_size": Row(13),
  "max_length": Row(5, {"model.positions": "learned"}),
  "activation": Row("swiglu", {"model.activation": "gelu"}),
  "norm": Row("rmsnorm", {"model.norm": "layernorm"}),
  "norm_params": Row(True, {"model.norm_params": False}),
  "norm_eps": Row(1e-3),
  "final_norm_eps": Row(1e-3),
  "norm_position": Row("post"),
  "block": Row("parallel"),
  "attention_views": Row(True),
  "expand": Row("scaling"),
  "expand_init_std": Row(0.5, {"model.expand": "scaling"}),
  "reduce": Row("mean"),
  "positions": Row("learned", ROTARY),
  "rotary_theta": Row(50.0, ROTARY),
  "qk_norm": Row(True, {"model.qk_norm": False}),
  "dropout": Row(0.5),
  "tie_embeddings": Row(False, {"model.tie_embeddings": True}),
  "causal": Row(False),
  "init_std": Row(0.5),
  "output_init_scale": Row(3.0),
  "dtype": Row("bfloat16"),
  "stream_dtype": Row("bfloat16"),
  "scan": Row(True),
  "remat": Row("full"),
  "layers": Row(((1, "residual"), (1, "hc")), {"model.num_layers": 2}),
}


@once
def program(config):
  """Returns the program that initialises a model: its draws, its forward pass and its dropout."""
  model = models.make_model(config.model)
  init = functools.partial(model.init, deterministic=False)
  return text_of(init, {"params": KEY, "dropout": KEY}, np.zeros((1, 2), np.int32))


KEY = jax.eval_shape(lambda: jax.random.key(0))


@pytest.mark.parametrize("key", MODEL)
def test_a_key_of_the_model_changes_its_program(key):
  before, after = map(program, pair(f"model.{key}", MODEL[key]))
  assert before != after


def test_a_program_is_the_same_each_time_it_is_traced():
  """Traces twice; if the texts differed, every test of a changed program would pass."""
  before, _ = pair("model.d_model", MODEL["d_model"])
  assert program.__wrapped__(before) == program(before)


def of(name, **fields):
  """Returns keys that select the connection `name`, with other fields."""
  return {
    "model.connection.name": name,
    **{f"model.connection.{field}": value for field, value in fields.items()},
  }


HC, MHC = of("hc"), of("mhc", num_streams=2)
X0 = {**of("x0_lambdas"), "model.num_layers": 4}
CONNECTION = {
  "name": Row("altup", of("hc", num_streams=2)),
  "num_streams": Row(3, HC),
  "fractions": Row(2, of("frac")),
  "derivatives": Row("autodiff", HC),
  "dynamic": Row(False, HC),
  "tanh": Row(False, HC),
  "norm": Row("rmsnorm", HC),
  "norm_params": Row(True, HC),
  "norm_eps": Row(0.1, HC),
  "train_read_mix": Row(False, HC),
  "train_write": Row(False, HC),
  "dynamic_scale_init": Row(0.5, HC),
  "bias_init": Row("onehot", MHC),
  "gate_scale_init": Row(0.5, MHC),
  "kernel_init_std": Row(0.5, MHC),
  "form": Row("deepseek_v4", MHC),
  "sinkhorn_steps": Row(3, MHC),
  "sinkhorn_gradient": Row("implicit", MHC),
  "train_mix_scale": Row(True, of("ohc")),
  "backout": Row(True, X0),
  "backout_block": Row(1, {**X0, "model.connection.backout": True}),
  "block_sites": Row(3, of("attn_res")),
  "rank": Row(2, of("gated_residual")),
}
# Keys whose other values are refused: the branch decides the number of views, and XLA is the only
# backend.
REFUSED = {"num_views": Row(3, HC), "implementation": Row("pallas", HC)}


@once
def site(config):
  """Returns the program of one site, its initial parameters and its coefficients."""
  model = models.make_model(config.model)
  place = {"num_sites": 2 * model.num_layers, "sites_per_block": 2}
  connection = connection_factory(model.connection, **place)(parent=None)
  streams = np.zeros((1, connection.num_streams, 8 // connection.fractions), np.float32)
  return text_of(connection.init_with_output, KEY, streams, 0)


@pytest.mark.parametrize("key", CONNECTION)
def test_a_field_of_the_connection_changes_the_program_of_a_site(key):
  before, after = map(site, pair(f"model.connection.{key}", CONNECTION[key]))
  assert before != after


@pytest.mark.parametrize("key", REFUSED)
def test_a_field_that_is_the_models_is_refused(key):
  _, after = pair(f"model.connection.{key}", REFUSED[key])
  with pytest.raises(UserError, match=key):
    models.make_model(after.model)
