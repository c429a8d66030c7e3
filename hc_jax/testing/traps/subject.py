"""The subject of the traps, and a network for it that compiles in a second."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import axes, ops
from hc_jax import params as hc_params
from hc_jax.connections import MHC, Connection, HyperConnection, Residual
from hc_jax.models import TransformerLM, unstack_layers
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.reference import hyper as reference
from hc_jax.testing.reference import transformer

PyTree = Any
STREAMS, WIDTH, LAYERS, VOCAB, EPS = 3, 8, 2, 11, 1e-5
SITES = 2 * LAYERS
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 6)).astype(np.int32)
WEIGHTS = normal("loss", *TOKENS.shape, VOCAB)  # weights of the logits in the loss
SCANNED = {"scan": True, "remat": "none", "derivatives": "custom"}  # baseline for other ways
# The final norm has nearly no eps, so that n equal streams and one give the same logits.
TINY = {
  "vocab_size": VOCAB,
  "d_model": WIDTH,
  "num_layers": LAYERS,
  "num_heads": 2,
  "d_ff": 8,
  "max_length": 8,
  "norm_eps": EPS,
  "final_norm_eps": 1e-12,
  "init_std": 0.3,
  "remat": "none",
}


@dataclasses.dataclass(frozen=True)
class Subject:
  """An implementation under test; by default the one of this package.

  Attributes:
    name: name in messages.
    connection: class with the fields and parameters of `HyperConnection`.
    mhc: class with the fields and parameters of `MHC`; None without a Sinkhorn variant.
    model: function or class that takes the fields of `TransformerLM` and returns a Linen module.
    read: replacement of `hc_jax.ops.read`.
    write: replacement of `hc_jax.ops.write`.
    expand: replacement of `hc_jax.ops.expand`.
    reduce: replacement of `hc_jax.ops.reduce`.
    decay_mask: replacement of `hc_jax.params.decay_mask`.
  """

  name: str = "hc_jax"
  connection: type[Connection] = HyperConnection
  mhc: type[Connection] | None = MHC
  model: Callable[..., nn.Module] = TransformerLM
  read: Callable = ops.read
  write: Callable = ops.write
  expand: Callable = ops.expand
  reduce: Callable = ops.reduce
  decay_mask: Callable[[PyTree], PyTree] = hc_params.decay_mask


def network(
  subject: Subject,
  *,
  n: int = STREAMS,
  dynamic: bool = True,
  derivatives: str = "custom",
  **fields: Any,
) -> nn.Module:
  """Returns the tiny model with n streams; n = 0 gives the Pre-Norm residual network."""
  connection = Residual
  if n:
    connection = functools.partial(
      subject.connection, num_streams=n, dynamic=dynamic, derivatives=derivatives
    )
  return subject.model(**{**TINY, "connection": connection, **fields})


def shapes(model: nn.Module) -> PyTree:
  """Returns the parameters of a model as shapes."""
  variables = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
  return axes.unboxed(variables["params"])


def kicked(model: nn.Module, kick: float = 0.3) -> PyTree:
  """Returns parameters away from their initial values, equal for scanned and unrolled layers."""
  scanned = model.clone(scan=True)
  tree = jax.tree_util.tree_map_with_path(functools.partial(_value, kick), shapes(scanned))
  return tree if model.scan else unstack_layers(tree)


def _value(kick: float, path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
  name = hc_params.path_name(path)
  last = name.rsplit("/", 1)[-1]
  noise = kick * normal(name, *leaf.shape)
  if last == "static_mix":
    return np.eye(leaf.shape[-1], dtype=np.float32) + noise
  return 1 + noise if last.endswith(("scale", "static_write")) else noise


@functools.cache
def initial(subject: Subject, **fields: Any) -> PyTree:
  """Returns the initial parameters of the tiny model, as NumPy arrays."""
  model = network(subject, **fields)
  return jax.tree.map(
    np.asarray, axes.unboxed(jit(model.init)(jax.random.key(3), TOKENS)["params"])
  )


def sharing(source: PyTree, target: PyTree) -> PyTree:
  """Returns `target`, with each parameter that `source` has too replaced by that of `source`."""
  found = dict(hc_params.named_leaves(source))
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: found.get(hc_params.path_name(path), leaf), target
  )


def residual(subject: Subject, params: PyTree) -> PyTree:
  """Returns the parameters of the Pre-Norm residual network with the branches of `params`."""
  return sharing(params, shapes(network(subject, n=0)))


def set_sites(params: PyTree, **values: Callable[[int], Any]) -> PyTree:
  """Returns stacked parameters, with static parts of connections set by `name=value(site)`."""

  def pick(path, leaf):
    name = hc_params.path_name(path)
    value = values.get(name.rsplit("/", 1)[-1])
    if value is None or not hc_params.is_connection(name):
      return leaf
    first = 0 if "attn_connection" in name else 1
    sites = [np.asarray(value(2 * layer + first), np.float32) for layer in range(leaf.shape[0])]
    return np.stack(sites).reshape(leaf.shape)

  return jax.tree_util.tree_map_with_path(pick, params)


@dataclasses.dataclass(frozen=True)
class Outputs:
  """The results of a forward pass: logits, reduced streams before the final norm, coefs by site."""

  logits: np.ndarray
  hidden: np.ndarray
  coefs: list


@functools.cache
def forward(subject: Subject, **fields: Any) -> Callable[..., Outputs]:
  """Returns `f(params, tokens=TOKENS, dropout_key=None) -> Outputs`, compiled."""
  model = network(subject, **fields)

  @jit
  def run(params, tokens, key):
    logits, state = model.apply(
      {"params": params},
      tokens,
      deterministic=key is None,
      rngs=None if key is None else {"dropout": key},
      mutable=["intermediates"],
      capture_intermediates=lambda module, method: method == "hidden",
    )
    return logits, state["intermediates"]

  def call(params: PyTree, tokens: np.ndarray = TOKENS, key: jax.Array | None = None) -> Outputs:
    logits, found = run(params, tokens, key)
    layers = unstack_layers(found.get("stack", {}))
    names = [(f"layer_{i}", f"{s}_connection") for i in range(LAYERS) for s in ("attn", "ffn")]
    coefs = [layers[a][b]["coefs"][0] for a, b in names] if layers else []
    return Outputs(np.asarray(logits), np.asarray(found["hidden"][-1]), coefs)

  return call


@functools.cache
def value_and_grad(subject: Subject, **fields: Any) -> Callable:
  """Returns `f(params, tokens) -> ((loss, logits), gradients)`, compiled."""
  model = network(subject, **fields)

  def loss(params, tokens):
    logits = model.apply({"params": params}, tokens)
    return jnp.sum(logits.astype(jnp.float32) * WEIGHTS), logits

  return jit(jax.value_and_grad(loss, has_aux=True))


def decoded(model: nn.Module, params: PyTree, tokens: np.ndarray) -> np.ndarray:
  """Decodes tokens `[B, L]` one after another from an empty cache; returns logits `[B, L, V]`."""
  init = functools.partial(model.init, decode=True)
  empty = jax.eval_shape(init, jax.random.key(0), tokens[:, :1])["cache"]
  cache = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), empty)

  @jit
  def step(params, cache, tokens):
    variables = {"params": params, "cache": cache}
    return model.apply(variables, tokens, decode=True, mutable=["cache"])

  out = []
  for t in range(tokens.shape[1]):
    logits, state = step(params, cache, tokens[:, t : t + 1])
    cache = state["cache"]
    out.append(logits)
  return np.concatenate(out, axis=1)


@functools.cache
def site(subject: Subject, **fields: Any) -> Callable:
  """Returns `f(params, streams, y) -> (branch input, coefs, next streams)` of site 0, compiled."""
  connection = subject.connection(**{"num_streams": STREAMS, **fields})

  @jit
  def run(params, streams, y):
    h, coefs = connection.apply({"params": params}, streams, 0)
    return h, coefs, connection.apply({"params": params}, streams, y, coefs, method="write")

  return run


def site_params(n: int = STREAMS, *, dynamic: bool = True, norm: str = "") -> dict:
  """Returns parameters of one site, away from their initial values.

  Args:
    n: number of streams.
    dynamic: whether to include the dynamic parameters.
    norm: "layernorm" or "rmsnorm" for a norm with parameters; "" for a norm without.
  """
  params = {
    "static_read": normal("static_read", 1, n),
    "static_mix": np.eye(n, dtype=np.float32) + 0.3 * normal("static_mix", n, n),
    "static_write": 1 + 0.3 * normal("static_write", n, 1),
  }
  if dynamic:
    params["dynamic_kernel"] = 0.5 * normal("dynamic_kernel", WIDTH, n + 2)
    params["dynamic_scale"] = np.float32([0.7, 0.4])
  if norm:
    params["norm_scale"] = 1 + 0.3 * normal("norm_scale", WIDTH)
  if norm == "layernorm":
    params["norm_bias"] = 0.3 * normal("norm_bias", WIDTH)
  return params


def site_streams(n: int = STREAMS) -> np.ndarray:
  """Returns streams `[2, 5, n, w]` that all differ, with means that LayerNorm must remove."""
  return normal("streams", 2, 5, n, WIDTH) + 0.5 * normal("means", 2, 5, n, 1)


@functools.cache
def exact(num_streams: int) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
  """Returns logits and gradients of the kicked dynamic network in float64.

  Args:
    num_streams: n; 0 gives the residual network, without gradients.

  Returns:
    Logits `[B, L, V]`, and gradients by path in unrolled layers.
  """
  model = network(Subject(), n=num_streams, scan=False)
  flat = hc_params.named_leaves(kicked(model))
  flat = {path: np.asarray(leaf, np.float64) for path, leaf in flat}
  run = functools.partial(transformer.logits, model, tokens=TOKENS)
  if not num_streams:
    return run(flat), {}
  return run(flat), reference.gradient(lambda p: np.sum(run(p) * WEIGHTS), flat)


def distance(got: PyTree, want: PyTree) -> float:
  """Returns the norm of `got - want` over the norm of `want`, over whole trees."""
  a, b = (
    np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])
    for tree in (got, want)
  )
  return float(np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-6))
