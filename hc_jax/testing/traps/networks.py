"""Traps that only a whole network can show; `hc_jax.testing.traps.one_site` has the others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import params as hc_params
from hc_jax.models import unstack_layers
from hc_jax.testing.harness import FORWARD, GRADIENT, check
from hc_jax.testing.reference import hyper as reference
from hc_jax.testing.traps.subject import (
  SCANNED,
  SITES,
  STREAMS,
  TOKENS,
  Subject,
  distance,
  forward,
  initial,
  kicked,
  network,
  residual,
  set_sites,
  shapes,
  sharing,
  site_streams,
  value_and_grad,
)

CLOSE = 1e-5  # largest difference of two float32 networks that are mathematically equal


def streams_cross_blocks(subject: Subject) -> None:
  """Checks T3: a write of block 0 to stream 1 stays in that stream until a block reads it."""
  run = forward(subject, dynamic=False)
  params = kicked(network(subject, dynamic=False))
  eye = np.eye(STREAMS)

  def hidden(reader: int, scale: float) -> np.ndarray:
    """Runs the network with block 1 reading stream `reader`, and only stream 0 kept at the end."""
    at = set_sites(
      params,
      static_read=lambda k: eye[0] if k < 2 else eye[reader],
      static_write=lambda k: eye[1] if k < 2 else eye[0],
      static_mix=lambda k: np.diag(eye[0]) if k == SITES - 1 else eye,
    )
    layers = at["stack"]["layers"]
    kernel = layers["ffn"]["out_kernel"]  # scaled, so that block 0 writes something else
    factor = np.float32([scale, 1])[:, None, None]
    layers = {**layers, "ffn": {**layers["ffn"], "out_kernel": kernel * factor}}
    return run({**at, "stack": {**at["stack"], "layers": layers}}).hidden

  check(
    np.abs(hidden(0, 2.0) - hidden(0, 1.0)).max() < CLOSE,
    "streams are collapsed between blocks: a write to stream 1 alone reached a block that reads "
    "only stream 0",
  )
  check(
    np.abs(hidden(1, 2.0) - hidden(1, 1.0)).max() > 1e-2,
    "a write to stream 1 does not reach the block that reads stream 1",
  )


def reduce_comes_before_the_final_norm(subject: Subject) -> None:
  """Checks T5: the final norm comes after the streams are summed; at init logits are Pre-Norm's."""
  found = forward(subject)(initial(subject))
  want = forward(subject, n=0)(residual(subject, initial(subject))).logits
  check(
    np.abs(found.logits - want).max() < CLOSE,
    "at init the logits are not those of the Pre-Norm residual network with the same branches",
  )
  params = kicked(network(subject))
  found = forward(subject)(params)
  embedding = np.asarray(params["token_embed"]["embedding"], np.float64)
  normed = reference.normalise(found.hidden.astype(np.float64), "layernorm", 1e-12)
  check(
    distance(found.logits, normed @ embedding.T) < FORWARD,
    "the final norm does not come after the reduce: logits are not those of norm(sum of streams)",
  )


def reduce_is_the_sum(subject: Subject) -> None:
  """Checks T6: reduce is the sum of the streams, not the mean."""
  streams = site_streams()
  check(
    distance(subject.reduce(streams), streams.astype(np.float64).sum(-2)) < FORWARD,
    "reduce is not the sum over streams (Algorithm 1)",
  )
  check(
    np.array_equal(subject.expand(streams[..., 0, :], STREAMS), streams[..., [0] * STREAMS, :]),
    "expand does not copy its input into every stream (Algorithm 1)",
  )
  found = forward(subject)(initial(subject)).hidden
  once = forward(subject, n=0)(residual(subject, initial(subject))).hidden
  check(
    distance(found, STREAMS * once.astype(np.float64)) < GRADIENT,
    f"before the final norm the {STREAMS} streams at init are not {STREAMS} times the residual "
    "network: the model's reduce is not a sum, or its streams do not start as copies",
  )


def init_counts_sublayers(subject: Subject) -> None:
  """Checks T7: sublayer k reads stream k mod n at init; attention of block l is sublayer 2l."""
  for scan in (True, False):
    params = initial(subject, scan=scan)
    layers = (unstack_layers(params) if scan else params)["stack"]
    for k in range(SITES):
      connection = layers[f"layer_{k // 2}"][("attn_connection", "ffn_connection")[k % 2]]
      check(
        np.array_equal(connection["static_read"], np.eye(STREAMS)[k % STREAMS][None]),
        f"sublayer {k} does not start by reading stream {k} mod {STREAMS} (scan={scan}): the index "
        "must count sublayers through the network",
      )


def dynamic_part_starts_at_zero(subject: Subject) -> None:
  """Checks T9: dynamic kernels start at zero, and scales at 0.01."""
  params = initial(subject)
  for path, leaf in hc_params.named_leaves(params):
    if path.endswith("dynamic_kernel"):
      check(not np.any(leaf), f"{path} does not start at zero")
    if path.endswith("dynamic_scale"):
      check(np.allclose(leaf, 0.01), f"{path} starts at {leaf.flat[0]:g}, not at the paper's 0.01")
  static = sharing(params, shapes(network(subject, dynamic=False)))
  difference = forward(subject)(params).logits - forward(subject, dynamic=False)(static).logits
  check(np.abs(difference).max() < CLOSE, "at init dynamic connections differ from static ones")


def decay_goes_by_name(subject: Subject) -> None:
  """Checks T12: the paper's choice of parameters decays, in scanned and in unrolled layers."""
  fields = {"norm_params": True, "qk_norm": True}
  masks = {}
  for scan in (True, False):
    mask = subject.decay_mask(shapes(network(subject, scan=scan, **fields)))
    masks[scan] = {
      path.replace("/layer_0/", "/layers/"): bool(decays)
      for path, decays in hc_params.named_leaves(mask)
      if "/layer_1/" not in path
    }
  for path, decays in masks[True].items():
    check(
      masks[False].get(path) == decays,
      f"{path} decays in only one of scanned and unrolled layers; decide by name, not by rank",
    )
    name = path.rsplit("/", 1)[-1]
    wanted = not (name.startswith("static_") or name.endswith(("scale", "bias")))
    check(decays == wanted, f"{path} must {'' if wanted else 'not '}decay")


def dropout_spares_the_streams(subject: Subject) -> None:
  """Checks T15: if every branch output is dropped, the mixed embedding is left, not zero."""
  fields = {"dynamic": False, "dropout": 1 - 2**-24}  # drops all so few numbers; 1 is refused
  params = kicked(network(subject, **fields))
  found = forward(subject, **fields)(params, TOKENS, jax.random.key(0)).hidden
  H = np.asarray(params["token_embed"]["embedding"], np.float64)[TOKENS]
  mixes = [
    layer[f"{name}_connection"]["static_mix"]
    for layer in unstack_layers(params)["stack"].values()
    for name in ("attn", "ffn")
  ]
  total = functools.reduce(lambda a, b: b.astype(np.float64) @ a, mixes, np.eye(STREAMS))
  check(
    distance(found, np.sum(total) * H) < FORWARD,
    "dropout is not on the branch output alone: with all of it dropped the streams must be A_r^T H",
  )


def everything_learns(subject: Subject) -> None:
  """Checks T16: after one step, every parameter of every connection gets a gradient.

  The first site's static_read is the exception: its streams are equal, so that it is only a scale,
  which the norm removes.
  """
  run, params = value_and_grad(subject, **SCANNED), initial(subject)
  _, first = run(params, TOKENS)
  size = np.sqrt(sum(float(jnp.sum(jnp.square(g))) for g in jax.tree.leaves(first)))
  _, grads = run(jax.tree.map(lambda p, g: p - 0.5 / size * g, params, first), TOKENS)
  sizes = {
    path: float(np.linalg.norm(g))
    for path, g in hc_params.named_leaves(unstack_layers(grads))
    if hc_params.is_connection(path)
  }
  for path, found in sizes.items():
    name = path.rsplit("/", 1)[-1]
    median = np.median([value for other, value in sizes.items() if other.endswith(name)])
    if path == "stack/layer_0/attn_connection/static_read":
      check(found < 0.1 * median, f"{path} cannot matter, yet its gradient has norm {found:.1e}")
    else:
      check(
        found > 1e-3 * median and median > 1e-6,
        f"{path} does not learn: its gradient after one step has norm {found:.1e}",
      )


def nothing_leaks(subject: Subject) -> None:
  """Checks T18: a change of token t changes no bit before t, and no bit of other rows."""
  run, params, t = forward(subject), kicked(network(subject)), TOKENS.shape[1] // 2
  tokens = TOKENS.copy()
  tokens[0, t] = (tokens[0, t] + 1) % (TOKENS.max() + 1)
  before, after = run(params, TOKENS).logits, run(params, tokens).logits
  check(
    np.array_equal(before[0, :t], after[0, :t]),
    f"tokens see their future: a change of token {t} changed logits before it",
  )
  check(
    np.array_equal(before[1:], after[1:]),
    "rows of the batch see one another: a change in row 0 changed logits of row 1",
  )
  check(
    np.all(np.any(before[0, t:] != after[0, t:], axis=-1)),
    f"a change of token {t} does not reach the tokens after it",
  )


def one_stream_is_the_residual(subject: Subject) -> None:
  """Checks T20: with one static stream, the network at init is Pre-Norm, up to rounding."""
  fields = {"n": 1, "dynamic": False}
  params = initial(subject, **fields)
  found = forward(subject, **fields)(params)
  want = forward(subject, n=0)(residual(subject, params))
  check(
    np.abs(found.hidden - want.hidden).max() < 1e-6 and distance(found.logits, want.logits) < 1e-6,
    "hyper-connections with one static stream do not start as the Pre-Norm residual network",
  )
