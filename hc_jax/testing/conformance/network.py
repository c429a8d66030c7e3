"""Conformance of a connection in a network: equivalences, learning, and every way to run it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import params as hc_params
from hc_jax import sharding
from hc_jax.axes import unboxed
from hc_jax.connections.facts import Facts
from hc_jax.models import unstack_layers
from hc_jax.testing.compiled import jit, normal, options
from hc_jax.testing.conformance import candidate as cd
from hc_jax.testing.conformance.candidate import (
  TOKENS,
  Candidate,
  forward,
  initial,
  kicked,
  residual_of,
)
from hc_jax.testing.harness import FORWARD, GRADIENT, NotApplicable, check
from hc_jax.testing.traps.subject import decoded, distance, sharing

PLAIN = {"scan": True, "remat": "none"}  # the baseline for other ways to run


def starts_as_claimed(candidate: Candidate) -> None:
  """Checks that the network at init is the Pre-Norm residual network, if the facts claim so."""
  facts = candidate.module.facts(cd.WIDTH)
  if facts == Facts():
    raise NotApplicable("it states no facts")
  params = initial(candidate)
  plain = residual_of(candidate)
  shapes = jax.eval_shape(cd.network(plain).init, jax.random.key(0), TOKENS)["params"]
  found = forward(candidate)(params, TOKENS)
  want = forward(plain)(sharing(params, unboxed(shapes)), TOKENS)
  away = distance(found, want)
  if facts.residual_at_init is None:
    check(
      bool(facts.note),
      f"it starts {away:.1e} away from the Pre-Norm residual network and its facts do not say so; "
      "set residual_at_init, or give the reason in note",
    )
    check(away > 1e-5, "it starts as the Pre-Norm residual network; claim it in residual_at_init")
    return
  check(
    away <= facts.residual_at_init,
    f"it starts {away:.1e} away from the Pre-Norm residual network with the same branches; its "
    f"facts claim at most {facts.residual_at_init:.0e}",
  )


def index_counts(candidate: Candidate) -> None:
  """Checks that initial values of sublayer k are those of index k, with and without scan."""
  looped = initial(candidate, scan=False)
  scanned = unstack_layers(initial(candidate))
  again = unstack_layers(initial(candidate, seed=4))
  for index, (layer, name) in enumerate(candidate.sites):
    trees = [tree["stack"][layer].get(name, {}) for tree in (looped, scanned, again)]
    alone = candidate.at(index).init(jax.random.key(0), candidate.streams(()), index)
    alone = unboxed(alone.get("params", {}))
    for leaf, value in trees[1].items():
      if np.array_equal(value, trees[2][leaf]):  # random values cannot be compared
        for other, words in ((trees[0][leaf], "unrolled"), (alone[leaf], "alone")):
          check(
            np.allclose(value, other, atol=1e-6),
            f"{leaf} of sublayer {index} starts differently under scan than {words}: the index "
            "must count sublayers through the network",
          )


def causality(candidate: Candidate) -> None:
  """Checks that changing token t changes no bit before t, and no bit of other rows."""
  run, params, t = forward(candidate), kicked(candidate), TOKENS.shape[1] // 2
  tokens = TOKENS.copy()
  tokens[0, t] = (tokens[0, t] + 1) % cd.VOCAB
  before, after = (np.asarray(run(params, a)) for a in (TOKENS, tokens))
  check(np.array_equal(before[0, :t], after[0, :t]), f"token {t} changes logits before it")
  check(np.array_equal(before[1:], after[1:]), "a row of the batch changes logits of another row")
  check(bool(np.all(np.any(before[0, t:] != after[0, t:], -1))), f"token {t} changes nothing")


def agrees_with_the_reference(candidate: Candidate) -> None:
  """Checks logits and gradients of the whole network against Algorithm 1 in float64."""
  if not candidate.has_reference:
    raise NotApplicable("it has no float64 reference")
  params = kicked(candidate)
  (_, logits), grads = cd.value_and_grad(candidate, **PLAIN)(params, TOKENS)
  exact, at = cd.exact_logits(candidate), cd.flat(params)
  away = distance(logits, exact(at))
  check(away < FORWARD, f"logits are {away:.1e} (relative) away from the float64 reference")
  grads = cd.flat(grads)
  ways = cd.directions({k: a for k, a in at.items() if not _is_frozen(candidate, k)}, 2)
  want = cd.slopes(lambda flat: np.sum(exact(flat) * cd.WEIGHTS), at, ways)
  away = distance(cd.along(grads, ways), want)
  check(away < GRADIENT, f"gradients are {away:.1e} (relative) away from the float64 reference")


def every_way_agrees(candidate: Candidate) -> None:
  """Checks that unrolled, rematerialised and autodiff networks equal the scanned network."""
  (_, logits), grads = cd.value_and_grad(candidate, **PLAIN)(kicked(candidate), TOKENS)
  grads = cd.flat(grads)
  for way in (
    {"scan": False, "remat": "none"},
    {"scan": True, "remat": "branches"},
    {"scan": True, "remat": "full", "derivatives": "autodiff"},
  ):
    params = kicked(candidate, scan=way["scan"])
    (_, found), found_grads = cd.value_and_grad(candidate, **way)(params, TOKENS)
    words = ", ".join(f"{k}={v}" for k, v in way.items())
    away = distance(found, logits)
    check(away < FORWARD, f"logits with {words} are {away:.1e} away from those of a plain scan")
    away = distance(cd.flat(found_grads), grads)
    check(away < GRADIENT, f"gradients with {words} are {away:.1e} away from those of a plain scan")


def half_precision(candidate: Candidate) -> None:
  """Checks that a bf16 network is about as near to float64 as the residual network.

  Logits may be 1.5 times as far away and gradients 3 times, in the median of three sets of
  parameters. Parameters stay near their initial values, because a network with random maps
  amplifies rounding in any dtype.
  """
  if not candidate.has_reference:
    raise NotApplicable("it has no float64 reference")
  ours, plain = (
    np.median([_rounding(who, draw) for draw in "abc"], axis=0)
    for who in (candidate, residual_of(candidate))
  )
  for what, times, found, bound in zip(("logits", "gradients"), (1.5, 3), ours, plain, strict=True):
    check(
      found < times * bound,
      f"bf16 {what} are {found:.1e} away from float64, more than {times} times as far as those of "
      f"the residual network ({bound:.1e})",
    )


@functools.cache
def _rounding(who: Candidate, draw: str) -> tuple[float, float]:
  """Returns the relative error of bf16 logits and gradients for one random set of parameters."""
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf + 0.05 * normal(draw + hc_params.path_name(path), *leaf.shape),
    kicked(who),
  )
  exact, at = cd.exact_logits(who), cd.flat(params)
  (_, logits), grads = cd.value_and_grad(who, **PLAIN, dtype=jnp.bfloat16)(params, TOKENS)
  ways = cd.directions({k: a for k, a in at.items() if not _is_frozen(who, k)}, 2)
  want = cd.slopes(lambda flat: np.sum(exact(flat) * cd.WEIGHTS), at, ways)
  return distance(logits, exact(at)), distance(cd.along(cd.flat(grads), ways), want)


def decoding(candidate: Candidate) -> None:
  """Checks that decoding token by token equals the whole, and that no connection has a cache."""
  params = kicked(candidate)
  model = cd.network(candidate)
  init = jax.eval_shape(lambda k: model.init(k, TOKENS[:, :1], decode=True), jax.random.key(0))
  for path, _ in hc_params.named_leaves(init["cache"]):
    check("_connection" not in path, f"{path}: a connection must not have a cache")
  away = distance(decoded(model, params, TOKENS), forward(candidate)(params, TOKENS))
  check(away < FORWARD, f"decoding token by token is {away:.1e} away from the whole at once")


def learning(candidate: Candidate) -> None:
  """Checks that every parameter of every site gets a gradient, except where none is possible.

  Each part of a site is compared with the median of that part over the sites. These parts cannot
  get a gradient:

  * the read of the first site if its streams are copies, and every read of a single stream: it is
    only a scale, which the norm removes;
  * the mix of the first site if its rows sum to one, because its streams are equal;
  * the mix of the last site if its columns sum to one, because the end sums the streams.

  Nothing is checked where the sums are only nearly one.
  """
  _, grads = cd.value_and_grad(candidate, **PLAIN)(kicked(candidate), TOKENS)
  layers, module = unstack_layers(grads)["stack"], candidate.module
  sizes = {}
  for site, (layer, name) in enumerate(candidate.sites):
    tree = layers[layer].get(name, {})
    for part, leaves in module.parts(tree).items():
      for leaf, value in leaves.items():
        if leaf not in module.frozen():
          sizes[part, leaf, site] = float(np.linalg.norm(value))
  total = np.linalg.norm(list(sizes.values())) if sizes else 0.0
  for (part, leaf, site), size in sizes.items():
    silent = {k: leaf in module.silent(k) or _silent(module, part, k) for k in range(cd.SITES)}
    sites = [k for k in range(cd.SITES) if (part, leaf, k) in sizes]  # not all may have the leaf
    loud = [sizes[part, leaf, k] for k in sites if silent[k] is False]
    median = float(np.median(loud)) if loud else total
    words = f"{leaf} ({part}) of sublayer {site}"
    if silent[site]:
      check(
        size < 5e-2 * median + 5e-6 * total,
        f"{words} cannot matter, yet its gradient has norm {size:.1e}",
      )
    elif silent[site] is False:
      check(
        size > 1e-3 * median and median > 1e-8 * total,
        f"{words} does not learn: its gradient has norm {size:.1e}",
      )


def _silent(module, part: str, site: int) -> bool | None:
  """Returns whether a part of a site cannot get a gradient; None if nearly so, or not known.

  The network begins with copies, has pre-norms, and ends in the sum of the streams.
  """
  equal = site == 0 and module.fractions == 1  # the first site sees equal streams
  if part == "read":
    if module.expand_kind == "first" and site == 1:
      return None  # depends on whether the first site wrote to the only stream that is not zero
    if module.norms_input:
      return False  # because a read by channel is more than a scale
    return (equal and not module.carries_read) or module.num_streams == 1
  facts, last = module.facts(cd.WIDTH), site == cd.SITES - 1
  rows, columns = facts.mix_rows_sum_to_one, facts.mix_columns_sum_to_one
  if part == "mix" and (rows is not None or columns is not None):
    if module.num_streams == 1:
      return True
    if equal:
      return None if rows is None else True
    if last and not module.carries_read:
      return None if columns is None else True
  return False


def compiles_once(candidate: Candidate) -> None:
  """Checks that one compiled site serves every index, and one compiled step its own outputs."""
  module = candidate.module
  run = jit(lambda params, streams, index: module.apply({"params": params}, streams, index)[0])
  for index in range(3):
    run(cd.site_params(candidate), candidate.streams(), index)
  check(run._cache_size() == 1, f"three indices compiled {run._cache_size()} times")
  loss = cd.loss_of(cd.network(candidate))

  @jit
  def step(params, tokens):
    grads = jax.grad(lambda p: loss(p, tokens)[0])(params)
    return jax.tree.map(lambda p, g: p - jnp.float32(1e-3) * g, params, grads)

  params = cd.initialised(candidate)
  for shift in range(3):
    params = step(params, (TOKENS + shift) % cd.VOCAB)
  check(step._cache_size() == 1, f"three steps compiled {step._cache_size()} times")


def sharded(candidate: Candidate) -> None:
  """Checks gradients on a 2 x 2 x 2 mesh, and that streams are split over batch and length."""
  if jax.device_count() < 8:
    raise NotApplicable(f"it needs 8 devices, and there are {jax.device_count()}")
  mesh = sharding.make_mesh("fsdp_tp", data=2, fsdp=2, tensor=2, devices=jax.devices()[:8])
  params = kicked(candidate)
  (_, logits), grads = cd.value_and_grad(candidate, **PLAIN)(params, TOKENS)
  model = cd.network(candidate, **PLAIN)
  with sharding.use_mesh(mesh, "fsdp_tp"):
    boxed = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    where = sharding.param_shardings(boxed, mesh, "fsdp_tp")
    split = jax.device_put(params, where)
    tokens = jax.device_put(TOKENS, sharding.batch_sharding(mesh))
    step = jax.jit(jax.value_and_grad(cd.loss_of(model), has_aux=True), compiler_options=options())
    (_, found), found_grads = step(split, tokens)
    streams = candidate.streams(TOKENS.shape)
    write = jit(
      lambda p, s, y: candidate.module.apply(
        {"params": p}, s, y, _coefs(candidate, p, s), method="write"
      )
    )
    out = write(
      cd.site_params(candidate), streams, streams[..., 0, :].repeat(candidate.module.fractions, -1)
    )
  away = distance(found, logits)
  check(away < GRADIENT, f"logits on the mesh are {away:.1e} away from those on one device")
  away = distance(jax.device_get(found_grads), grads)
  check(away < GRADIENT, f"gradients on the mesh are {away:.1e} away from those on one device")
  wanted = sharding.NamedSharding(mesh, sharding.PartitionSpec(("data", "fsdp"), "tensor"))
  check(
    out.sharding.is_equivalent_to(wanted, out.ndim),
    f"streams leave write as {out.sharding.spec}, not split over batch and length",
  )


def _coefs(candidate: Candidate, params, streams):
  return candidate.module.apply({"params": params}, streams, 1)[1]


def _is_frozen(candidate: Candidate, path: str) -> bool:
  return hc_params.is_connection(path) and path.rsplit("/", 1)[-1] in candidate.module.frozen()
