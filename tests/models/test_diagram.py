"""`hc-jax params CONFIG --diagram`: the drawing of a model, and that its counts add up."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

import hc_jax as hc
from hc_jax import cli, config_files
from hc_jax.config import load_config
from hc_jax.connections import contrib
from hc_jax.models.diagram import diagram_lines

CONFIGS = [name for name in config_files.names() if not name.startswith("ablations/")]
FAST = ("hybrid", "olmo_7b", "quickstart")
SMALL = {"vocab_size": 11, "d_model": 16, "num_heads": 2}


def model(**fields):
  return hc.models.TransformerLM(**{**SMALL, **fields})


def column(lines):
  """The numbers of the last column above its rule, and the two sums below it."""
  rule = next(i for i, line in enumerate(lines) if re.fullmatch(r" *-+", line))
  numbers = [int(line.split()[-1].replace(",", "")) for line in lines[1:rule] if counted(line)]
  total, own = (int(line.split()[-1].replace(",", "")) for line in lines[rule + 1 :])
  return numbers, total, own


def counted(line):
  return re.search(r" {2,}[\d,]+$", line)


def check_sums(model):
  lines = diagram_lines(model)
  numbers, total, own = column(lines)
  assert sum(numbers) == total and own < total
  assert max(map(len, lines)) <= 110 and "other parameters" not in "\n".join(lines)
  return lines


@pytest.mark.parametrize(
  "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
)
def test_every_shipped_config_is_drawn_and_its_parts_add_up(name):
  config = load_config(name, [])
  made = hc.models.make_model(config.model, config.model.vocab_size or 257)
  lines = check_sums(made)
  drawn = [re.search(r"\(× (\d+)\)", line) for line in lines]
  assert sum(int(found[1]) for found in drawn if found) == made.num_layers
  assert lines[1].startswith("tokens") and lines[-4].startswith("logits")


def test_the_total_is_that_of_the_parameters():
  made = model(num_layers=2, layers=((1, None), (1, hc.MHC)))
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  count = hc.param_count(jax.eval_shape(made.init, jax.random.key(0), tokens)["params"])
  assert column(check_sums(made))[1:] == (count.total, count.connection)


def test_the_drawing_of_a_model():
  lines = check_sums(model(num_layers=3, norm_params=True, tie_embeddings=False))
  site = 16 * 6 + 4 * 6 + 2 + 2 * 16  # with a norm of its own
  text = "\n".join(re.sub(r" +", " ", line) for line in lines)
  for line in (
    "token embedding [11, 16] 176",
    "┌║── layers 0 to 2 (× 3): HyperConnection",
    f"│╠═► h [B, L, 16] = read [1, 4] · X {site} {3 * site}",
    "│║ layernorm 32 96",
    "│║ attention, 2 heads of 8 1,024 3,072",
    "│╠═◄ X' = mix [4, 4] · X + write [4, 1] · y, y = branch output",
    "│║ feed-forward, gelu, 64 wide 2,048 6,144",
    "final layernorm 32",
    "output layer [16, 11] 176",
  ):
    assert line in text


@pytest.mark.parametrize("scan", [True, False])
def test_connections_that_differ_between_layers_have_a_frame_each(scan):
  layers = ((2, hc.Residual), (3, hc.HyperConnection(num_streams=2)), (1, hc.FracConnection()))
  lines = check_sums(model(layers=layers, scan=scan))
  frames = [line.rstrip("─ ") for line in lines if line.startswith("┌")]
  assert frames == [
    "┌│── layers 0 to 1 (× 2): Residual",
    "┌║── layers 2 to 4 (× 3): HyperConnection",
    "┌║── layer 5: FracConnection",
  ]
  assert sum("mean of the streams, and copies" in line for line in lines) == 2


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"block": "parallel"}, ["sum of both"]),
    ({"block": "whole"}, ["a = attention", "layernorm of h + a", "y = a + f"]),
    ({"block": "whole", "attention_views": True}, ["h [B, L, 4, 16] = read [4, 4]"]),
    ({"attention_views": True}, ["h [B, L, 3, 16] = read [3, 4]", "q, k and v read apart"]),
    ({"norm_position": "post", "norm": "rmsnorm"}, ["rmsnorm of every stream"]),
    ({"positions": "learned", "num_kv_heads": 1, "qk_norm": True}, ["+ position embedding"]),
    ({"expand": "scaling", "reduce": "head"}, ["scaled copies of x", "weights made of the"]),
    ({"connection": hc.SinglePassMHC}, ["read [1, 4] of the site before"]),
    ({"connection": hc.GatedResidual}, ["gates [1, 4, 16]", "a last gated read"]),
    ({"connection": hc.AttentionResiduals}, ["in one slot", "softmax over the slots"]),
    (
      {
        "connection": functools.partial(contrib.DenseFormer, padded=False),
        "block": "whole",
        "scan": False,
      },
      ["y = h + a + f", "layer 0:", "layer 1:"],
    ),
  ],
  ids=str,
)
def test_other_kinds_of_blocks_ends_and_connections(fields, words):
  text = "\n".join(check_sums(model(num_layers=2, **fields)))
  assert all(word in text for word in words), text


def test_the_flag_of_the_command(capsys):
  assert cli.main(["params", "quickstart", "--diagram", "--config.model.num_layers=3"]) == 0
  out = capsys.readouterr().out
  assert "layers 0 to 2 (× 3): HyperConnection" in out and "static_mix" not in out
