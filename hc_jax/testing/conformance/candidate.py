"""The candidate of the conformance suite: one connection, alone and in a tiny network.

Compiled functions are cached by candidate and options, so that many checks share a compilation.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import axes
from hc_jax import params as hc_params
from hc_jax.connections import Connection, ConnectionLike, Residual, connection_factory
from hc_jax.models import TransformerLM, unstack_layers
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.reference import hyper as reference
from hc_jax.testing.reference import transformer
from hc_jax.testing.reference.table import has_reference, matrices_of
from hc_jax.testing.traps import subject

PyTree = Any
WIDTH, EPS, KICK = 16, 1e-6, 0.1
LAYERS, SITES, VOCAB = subject.LAYERS, subject.SITES, subject.VOCAB
TINY = {**subject.TINY, "d_model": WIDTH, "norm_eps": EPS}
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (4, 6)).astype(np.int32)
WEIGHTS = normal("loss", *TOKENS.shape, VOCAB)  # weights of the logits in the loss
LEAD = (2, 5)  # token axes of a site that is run alone
# Fields that a network with TINY passes to its connections.
INHERITED = {"norm": "layernorm", "norm_params": False, "norm_eps": EPS, "num_sites": SITES}


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
  """A connection under test.

  Attributes:
    name: name in messages.
    connection: a class, a partial of a class, or an instance.
    like_reference: whether it claims to compute the same as the float64 reference of its parent
      class, although it overrides `coefs`.
    num_layers: number of blocks of its network if a block has two sites. A network of whole blocks
      has `SITES` blocks.
  """

  name: str
  connection: ConnectionLike
  like_reference: bool = False
  num_layers: int = LAYERS

  @functools.cached_property
  def module(self) -> Connection:
    """Returns the connection as a site of the network would have it, but without a network."""
    return connection_factory(self.connection, **INHERITED)(parent=None)

  @property
  def sites(self) -> list[tuple[str, str]]:
    """Returns the names of layer and connection of each site; a whole block has one site."""
    if self.module.branch_is_block:
      return [(f"layer_{k}", "connection") for k in range(SITES)]
    names = ("attn_connection", "ffn_connection")
    return [(f"layer_{k // 2}", names[k % 2]) for k in range(SITES)]

  @property
  def blocks(self) -> dict[str, Any]:
    """Returns the fields of its network that set the number and kind of blocks."""
    if not self.module.branch_is_block:
      return {"num_layers": self.num_layers}
    views = self.module.num_views > 1
    return {"num_layers": SITES, "block": "whole", "attention_views": views}

  def at(self, index: int) -> Connection:
    """Returns the connection of the site with this index in the network."""
    per_block = 1 if self.module.branch_is_block else 2
    place = {"sites_per_block": per_block, "site_in_block": index % per_block}
    return connection_factory(self.connection, **INHERITED, **place)(parent=None)

  @property
  def has_reference(self) -> bool:
    """Returns whether a float64 reference covers its class, or it claims its parent's reference."""
    return self.like_reference or has_reference(self.module)

  @property
  def num_streams(self) -> int:
    """Returns the number of streams, n."""
    return self.module.num_streams

  def streams(self, lead: tuple[int, ...] = LEAD, width: int = WIDTH) -> np.ndarray:
    """Returns streams `[*lead, n, w]` that all differ, with means that LayerNorm must remove."""
    n, w = self.num_streams, width // self.module.fractions
    return normal("streams", *lead, n, w) + 0.5 * normal("means", *lead, n, 1)


def network(candidate: Candidate, **options: Any) -> TransformerLM:
  """Returns the tiny network of a candidate.

  Args:
    candidate: connection under test.
    **options: fields of `TransformerLM`; `derivatives` is passed to the connection instead.
  """
  connection = connection_factory(candidate.connection)
  if candidate.blocks.get("attention_views"):  # the model itself sets the number of views
    given = {k: v for k, v in connection.keywords.items() if k != "num_views"}
    connection = functools.partial(connection.func, **given)
  if "derivatives" in options:
    connection = functools.partial(connection, derivatives=options.pop("derivatives"))
  return TransformerLM(**{**TINY, "connection": connection, **candidate.blocks, **options})


RESIDUAL = Candidate("residual", Residual)
DEEP_RESIDUAL = Candidate("residual", Residual, num_layers=SITES)


def residual_of(candidate: Candidate) -> Candidate:
  """Returns the residual candidate whose network has as many sublayers."""
  return DEEP_RESIDUAL if candidate.blocks["num_layers"] == SITES else RESIDUAL


@functools.cache
def initial(candidate: Candidate, scan: bool = True, seed: int = 3) -> PyTree:
  """Returns the initial parameters of the candidate's network, as NumPy arrays."""
  variables = _init(candidate, scan)(jax.random.key(seed), TOKENS)
  return jax.tree.map(np.asarray, axes.unboxed(variables["params"]))


def initialised(candidate: Candidate) -> PyTree:
  """Returns the initial parameters as the compiled init returns them, with their JAX types."""
  return axes.unboxed(_init(candidate, True)(jax.random.key(3), TOKENS)["params"])


@functools.cache
def _init(candidate: Candidate, scan: bool) -> Callable:
  return jit(network(candidate, scan=scan).init)


def kicked(candidate: Candidate, scan: bool = True, kick: float = KICK) -> PyTree:
  """Returns parameters away from their initial values, equal for scanned and unrolled layers."""
  tree = jax.tree_util.tree_map_with_path(functools.partial(_kick, kick), initial(candidate))
  return tree if scan else unstack_layers(tree)


def _kick(kick: float, path: tuple, leaf: np.ndarray) -> np.ndarray:
  name = hc_params.path_name(path)
  return leaf + kick * normal(name, *leaf.shape) * hc_params.is_connection(name)


@functools.cache
def site_params(candidate: Candidate, kick: float = KICK, width: int = WIDTH) -> Mapping[str, Any]:
  """Returns parameters of one site, away from their initial values; {} if it has none."""
  variables = candidate.module.init(jax.random.key(3), candidate.streams((), width), 1)
  tree = axes.unboxed(variables.get("params", {}))
  return {k: np.asarray(a) + kick * normal(k, *a.shape) for k, a in tree.items()}


@functools.cache
def site(candidate: Candidate, eager: bool = False) -> Callable:
  """Returns `f(params, streams, y) -> (branch input, coefs, next streams)` for site 1."""
  module = candidate.module

  def run(params, streams, y):
    h, coefs = module.apply({"params": params}, streams, 1)
    return h, coefs, module.apply({"params": params}, streams, y, coefs, method="write")

  return run if eager else jit(run)


def exact_site(
  candidate: Candidate, params: Mapping[str, Any], streams: np.ndarray, y: np.ndarray
) -> tuple:
  """Computes `site` by the float64 reference: (branch input, coefs by name, next streams)."""
  H = np.asarray(streams, np.float64) if not np.iscomplexobj(streams) else streams
  m = matrices_of(candidate.module, params, 1)(H)
  carries = candidate.module.carries_read
  A_m = np.eye(1, H.shape[-2]).T if carries else m.A_m  # if reads are carried: the first site's
  inputs = reference.inputs(H, dataclasses.replace(m, A_m=A_m))
  h = inputs.reshape(*inputs.shape[:-2], -1)
  if candidate.module.num_views > 1:
    h = h.reshape(*h.shape[:-1], candidate.module.num_views, -1)
  B = np.broadcast_to(m.B, (*m.B.shape[:-2], candidate.module.fractions, H.shape[-2]))
  parts = y.reshape(*y.shape[:-1], candidate.module.fractions, -1)
  out = np.einsum("...oi,...od->...id", B, parts) + np.einsum("...ij,...id->...jd", m.A_r, H)
  swap = lambda a: np.swapaxes(a, -1, -2)  # noqa: E731
  maps = {"read": swap(A_m), "write": swap(m.B), "mix": swap(m.A_r)}
  return h, maps | ({"next_read": swap(m.A_m)} if carries else {}), out


@functools.cache
def forward(candidate: Candidate, **options: Any) -> Callable:
  """Returns `f(params, tokens) -> logits`, compiled."""
  model = network(candidate, **options)
  return jit(lambda params, tokens: model.apply({"params": params}, tokens))


@functools.cache
def value_and_grad(candidate: Candidate, **options: Any) -> Callable:
  """Returns `f(params, tokens) -> ((loss, logits), gradients)`, compiled."""
  return jit(jax.value_and_grad(loss_of(network(candidate, **options)), has_aux=True))


def loss_of(model: TransformerLM) -> Callable:
  """Returns `f(params, tokens) -> (loss, logits)`."""

  def loss(params, tokens):
    logits = model.apply({"params": params}, tokens)
    return jnp.sum(logits.astype(jnp.float32) * WEIGHTS), logits

  return loss


def flat(params: PyTree) -> dict[str, np.ndarray]:
  """Returns parameters or gradients in float64, by their paths in unrolled layers."""
  layers = "layers" in params.get("stack", {})
  tree = unstack_layers(params) if layers else params
  return {path: np.asarray(leaf, np.float64) for path, leaf in hc_params.named_leaves(tree)}


@functools.cache
def exact_logits(candidate: Candidate) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
  """Returns `f(flat parameters) -> logits`, which computes in float64."""
  return functools.partial(transformer.logits, network(candidate), tokens=TOKENS)


def directions(at: Mapping[str, np.ndarray], count: int) -> list[dict[str, np.ndarray]]:
  """Returns directions to differentiate in, `count` for each leaf; each moves only that leaf."""
  return [{k: normal(f"{k}{i}", *np.shape(a))} for k, a in at.items() for i in range(count)]


def slopes(loss: Callable, at: Mapping[str, np.ndarray], ways: list) -> np.ndarray:
  """Returns the derivatives of `loss` at `at` along each of `ways`, by complex steps."""
  out = []
  for way in ways:
    moved = {k: at[k] + 1e-30j * v.astype(np.float64) for k, v in way.items()}
    out.append(np.imag(loss({**at, **moved})) / 1e-30)
  return np.array(out)


def along(gradients: Mapping[str, Any], ways: list) -> np.ndarray:
  """Returns the derivatives along each of `ways`, from gradients by name."""
  products = [
    sum(np.sum(np.asarray(gradients[k], np.float64) * v) for k, v in way.items()) for way in ways
  ]
  return np.array(products)
