"""A language model small enough to compile in a second, its parameters, and its compiled forward.

Parameters are random numbers by their path, made without compiling. They are away from their
initial values, where a wrong map cannot hide, and equal for all variants with such a parameter.
"""

import functools

import flax.linen as nn
import jax
import numpy as np

import hc_jax as hc
from hc_jax import params as hc_params
from hc_jax.testing.compiled import jit, normal

VOCAB, BATCH, LENGTH = 17, 2, 8
RESIDUAL = hc.Residual
DHC2 = functools.partial(hc.HyperConnection, num_streams=2)
DHC4 = functools.partial(hc.HyperConnection, num_streams=4)
SHC2 = functools.partial(hc.HyperConnection, num_streams=2, dynamic=False)

TOKENS = np.random.default_rng(0).integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32)


def model(**fields):
  """Two layers, 16 wide, two heads."""
  fields = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "num_layers": 2,
    "num_heads": 2,
    "d_ff": 24,
    "max_length": 12,
    "connection": DHC2,
    "remat": "none",
    **fields,
  }
  return hc.models.TransformerLM(**fields)


def shapes(of):
  """The parameters of a model as shapes, with their partitioning metadata."""
  return jax.eval_shape(of.init, jax.random.key(0), TOKENS)["params"]


def params(of, *, seed=0, kick=0.3):
  """Parameters of a model: values that suit their name, plus `kick` times noise."""

  def value(path, leaf):
    name = hc_params.path_name(path)
    last = name.rsplit("/", 1)[-1]
    noise = normal(f"{seed}/{name}", *leaf.shape)
    if last == "static_mix":
      return np.eye(leaf.shape[-1], dtype=np.float32) + kick * noise
    if last.endswith(("scale", "static_write")):
      return 1 + kick * noise
    return kick * noise

  return jax.tree_util.tree_map_with_path(value, nn.unbox(shapes(of)))


def at_init(of):
  """Parameters of a model with its connections as Eq. 14 has them, and other weights random."""

  def value(path, leaf, random):
    name = hc_params.path_name(path).rsplit("/", 1)[-1]
    if not hc_params.is_connection(hc_params.path_name(path)):
      return random
    out = np.zeros(leaf.shape, np.float32)
    if name in ("static_write", "norm_scale"):
      out += 1
    elif name == "static_mix":
      out += np.eye(leaf.shape[-1], dtype=np.float32)
    elif name == "dynamic_scale":
      out += np.float32(0.01)
    elif name == "static_read":
      stacked, site = leaf.ndim == 3, 0 if "attn" in hc_params.path_name(path) else 1
      for row, layer in zip(out if stacked else [out], layers(path, leaf), strict=True):
        row[0, (2 * layer + site) % leaf.shape[-1]] = 1
    return out

  def layers(path, leaf):
    if leaf.ndim == 3:
      return range(leaf.shape[0])
    return [int(key.key[6:]) for key in path if str(key.key).startswith("layer_")]

  tree = nn.unbox(shapes(of))
  return jax.tree_util.tree_map_with_path(value, tree, params(of))


@functools.cache
def forward(**fields):
  """The compiled forward of `model(**fields)`: `f(params, tokens, **masks and positions)`."""
  of = model(**fields)
  return jit(lambda params, tokens, **kwargs: of.apply({"params": params}, tokens, **kwargs))


def same_branches(source, target):
  """The parameters `target` with everything but connections taken from `source`, of one layout."""
  found = dict(hc_params.named_leaves(source))

  def pick(path, leaf):
    return found.get(hc_params.path_name(path), leaf)

  return jax.tree_util.tree_map_with_path(pick, target)
