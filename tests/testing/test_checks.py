"""Tests of check_model on a small user model: silent if it is right, and naming each mistake."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.testing import check_model
from hc_jax.testing.compiled import normal
from hc_jax.testing.model_checks.evidence import Evidence, Options
from hc_jax.testing.model_checks.report import CONVENTIONS
from hc_jax.testing.model_checks.watch import Watched
from tests.models import tiny

X = normal("x", 2, 5, 8)


class Mix(nn.Module):
  """A branch in which tokens see earlier tokens, or (`leaks`) all tokens."""

  leaks: bool = False

  @nn.compact
  def __call__(self, h):
    h = nn.LayerNorm(name="norm")(h)
    past = h.mean(-2, keepdims=True) if self.leaks else jnp.cumsum(h, axis=-2)
    return nn.Dense(h.shape[-1], name="dense")(nn.gelu(h + past))


class Mine(nn.Module):
  """A model of three sites, with the mistake that `mistake` names."""

  mistake: str = ""
  connection: str = "hc"
  n: int = 3
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    wrong, n = self.mistake, self.n
    make = hc.make_connection(self.connection, {"num_streams": n})
    fractions = make(parent=None).fractions
    x = nn.Dense(8, name="embed")(x).astype(self.dtype)
    streams = hc.expand(x, n, fractions)
    if wrong == "no copies":
      streams = streams * (1 + jnp.arange(n)[:, None].reshape(1, 1, n, 1))
    shared, first = make(name="shared_connection"), None
    for index in range(3):
      connection = shared if wrong == "shared" else make(name=f"site{index}_connection")
      given = {"constant": 0, "per block": index % 2, "from one": index + 1}.get(wrong, index)
      h, coefs = connection(streams, given)
      y = Mix(wrong == "leaks", name=f"branch{index}")(h)
      used, first = coefs, first or coefs
      if wrong == "first coefs" and index == 2:
        used = first
      if wrong == "bf16 coefs":
        used = jax.tree.map(lambda c: c.astype(jnp.bfloat16), coefs)
      if wrong == "one written":
        used = coefs.replace(write=coefs.write.at[..., 1:, :].set(0))
      if wrong == "no mix":
        used = coefs.replace(mix=None)
      if wrong == "no write" and index == 2:
        streams = streams + y[..., None, :]
        continue
      if wrong == "ignored" and index == 2:
        continue
      if wrong == "streams of the start" and index == 2:
        streams = connection.write(hc.expand(x, n, fractions), y, used)
        continue
      written = connection.write(streams, y, used)
      if wrong == "written twice" and index == 1:
        written = connection.write(written, y, used)
      streams = written
      if wrong == "collapsed" and index == 1:
        streams = hc.expand(hc.reduce(streams, fractions) / n, n, fractions)
      if wrong == "scaled":
        streams = streams * 0.9
      if wrong == "dtype" and index == 1:
        streams = streams.astype(jnp.bfloat16)
    norm = nn.LayerNorm(name="final")
    if wrong == "norm first":
      return hc.reduce(norm(streams), fractions)
    if wrong == "mean":
      return norm(streams.mean(-2))
    if wrong == "one stream":
      return norm(streams[..., 0, :])
    if wrong == "last lost":
      return norm(hc.reduce(streams) * 0 + hc.reduce(hc.expand(x, n)) + h)
    return norm(hc.reduce(streams, fractions))


def names(lines):
  return {line.name: line.why for line in lines}


@pytest.mark.parametrize(
  "fields, skips",
  [
    ({}, {"tokens do not see their future"}),
    pytest.param(
      {"connection": "frac", "n": 4},
      {"expand copies", "tokens do not see their future"},
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {"connection": "ghc", "dtype": jnp.bfloat16},
      {"tokens do not see their future"},
      marks=pytest.mark.slow,
    ),
    (
      {"connection": "residual", "n": 1},
      {
        "expand copies",
        "every connection learns",
        "sites share no parameters",
        "tokens do not see their future",
      },
    ),
  ],
  ids=lambda value: value.get("connection", "hc") if isinstance(value, dict) else "",
)
def test_a_model_that_is_right(fields, skips):
  said = []
  report = check_model(Mine(**fields), X, log=said.append)
  report.raise_if_broken()
  assert report.ok and said == [str(line) for line in report.lines] and len(said) == 13
  assert {line.name for line in report.lines if line.state == "skip"} == skips


MISTAKES = [  # (mistake, convention that finds it, words of its message)
  ("no write", "every read has its write", "site2_connection reads and never writes"),
  ("ignored", "every read has its write", "site2_connection is called, but nothing"),
  ("written twice", "every read has its write", "site1_connection.* writes without a read"),
  ("first coefs", "write takes the coefs of its read", "site2.* coefs of site0_connection"),
  ("no mix", "write takes the coefs of its read", "site0_connection writes with changed coefs"),
  ("no mix", "every connection learns", "site0_connection/static_mix has no gradient"),
  ("streams of the start", "write takes the streams of its read", "site2.* other streams"),
  ("collapsed", "streams cross from site to site", "collapsed between site1.* and site2"),
  ("scaled", "streams cross from site to site", "changed between site0_connection and site1"),
  ("constant", "the index counts sublayers", "site1.* is sublayer 1 .* gets index 0"),
  ("per block", "the index counts sublayers", "site2.* is sublayer 2 .* gets index 0"),
  ("from one", "the index counts sublayers", "site0.* is sublayer 0 .* gets index 1"),
  ("shared", "sites share no parameters", "shared_connection serves 3 sites .* of 1"),
  ("no copies", "expand copies", "enter site0_connection are not copies"),
  ("norm first", "reduce sums, before any norm", "before any norm"),
  ("mean", "reduce sums, before any norm", "not made of the sum"),
  ("one stream", "reduce sums, before any norm", "not made of the sum"),
  ("last lost", "reduce sums, before any norm", "does not depend on the streams"),
  ("bf16 coefs", "coefs are float32", "site0_connection writes with coefs in bfloat16"),
  ("dtype", "streams keep their dtype", "site2_connection gets streams in bfloat16"),
  ("leaks", "tokens do not see their future", "change of token 2"),
  ("one written", "starts as the residual network", "away from the plain residual network"),
]
CANARIES = ("no write", "constant")


@pytest.mark.parametrize(
  "mistake, broken, words",
  [m if m[0] in CANARIES else pytest.param(*m, marks=pytest.mark.exhaustive) for m in MISTAKES],
)
def test_every_mistake_is_named(mistake, broken, words):
  watched = Watched(Mine(mistake), [X], {}, {"params": jax.random.key(0)})
  seen = Evidence(watched, Options(causal_axis=1))
  with pytest.raises(AssertionError, match=words):
    dict(CONVENTIONS)[broken](seen)


@pytest.mark.exhaustive
@pytest.mark.parametrize("mistake", ["constant", "mean", "bf16 coefs"])
def test_a_mistake_breaks_one_convention(mistake):
  report = check_model(Mine(mistake), X, causal_axis=1, log=None)
  assert len(report.broken) == 1 and not report.ok, report
  with pytest.raises(AssertionError, match=r"^FAIL  [a-z]"):
    report.raise_if_broken()


class Block(nn.Module):
  """One site, as the body of nn.scan."""

  mistake: str

  @nn.compact
  def __call__(self, streams, layer):
    connection = hc.HyperConnection(num_streams=3, name="connection")
    h, coefs = connection(streams, 0 if self.mistake == "constant" else layer)
    streams = connection.write(streams, Mix(name="branch")(h), coefs)
    if self.mistake == "collapsed":
      streams = hc.expand(hc.reduce(streams) / 3, 3)
    return streams, None


class Scanned(nn.Module):
  """Three blocks under nn.scan and nn.remat."""

  mistake: str = ""

  @nn.compact
  def __call__(self, x):
    layers = nn.scan(
      nn.remat(Block, prevent_cse=False),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=3,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(self.mistake, name="layers")
    return nn.LayerNorm()(hc.reduce(layers(hc.expand(x, 3), jnp.arange(3))[0]))


@pytest.mark.parametrize(
  "mistake, words",
  [
    ("", ""),
    pytest.param(
      "constant",
      r"connection \(call 1\) is sublayer 1 of the network, .* index 0",
      marks=pytest.mark.slow,
    ),
    pytest.param(
      "collapsed",
      r"collapsed between layers/connection and layers/connection \(call 1\)",
      marks=pytest.mark.slow,
    ),
  ],
)
def test_scanned_layers_are_seen_one_by_one(mistake, words):
  report = check_model(Scanned(mistake), X, log=None)
  assert report.ok == (not mistake), report
  assert re.search(words, str(report))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
  "fields",
  [
    {"scan": True, "remat": "branches", "connection": hc.HyperConnection},
    {"scan": False, "connection": tiny.SHC2, "norm_position": "post"},
    {"scan": True, "dtype": jnp.bfloat16, "connection": hc.make_connection("ghc")},
  ],
  ids=["dhc", "post", "ghc"],
)
def test_our_language_model_keeps_them(fields):
  model = tiny.model(**fields)
  post_norm = fields.get("norm_position") == "post"
  check_model(model, tiny.TOKENS, causal_axis=1, post_norm=post_norm, log=None).raise_if_broken()


class Crossing(nn.Module):
  """A Post-Norm model whose norm acts on all streams together (`over_all`), or on each."""

  over_all: bool

  @nn.compact
  def __call__(self, x):
    streams = hc.expand(x, 2)
    for index in range(2):
      connection = hc.HyperConnection(num_streams=2)
      h, coefs = connection(streams, index)
      streams = connection.write(streams, nn.Dense(8)(h), coefs)
      streams = nn.LayerNorm(reduction_axes=(-2, -1) if self.over_all else -1)(streams)
    return hc.reduce(streams)


@pytest.mark.slow
def test_post_norm_norms_each_stream_by_itself():
  check_model(Crossing(False), X, post_norm=True, log=None).raise_if_broken()
  why = names(check_model(Crossing(True), X, post_norm=True, log=None).broken)
  assert "reaches streams [0, 1]" in why["streams cross from site to site"]
  why = names(check_model(Crossing(False), X, log=None).broken)
  assert "changed between" in why["streams cross from site to site"]


def test_what_is_frozen_need_not_learn():
  class Frozen(nn.Module):
    @nn.compact
    def __call__(self, x):
      connection = hc.HyperConnection(num_streams=3, train_read_mix=False)
      h, coefs = connection(hc.expand(x, 3), 0)
      return nn.LayerNorm()(hc.reduce(connection.write(hc.expand(x, 3), nn.Dense(8)(h), coefs)))

  check_model(Frozen(), X, log=None).raise_if_broken()


def test_a_model_that_fails_or_has_no_connection_says_so():
  class Broken(nn.Module):
    def __call__(self, x):
      raise RuntimeError("no such thing\nand more")

  report = check_model(Broken(), X, log=None)
  assert str(report) == "FAIL  the model runs: it raised RuntimeError: no such thing"
  report = check_model(nn.Dense(3), X, log=None)
  assert "no connection of hc_jax was called" in str(report) and not report.ok


@pytest.mark.slow
def test_the_models_own_arguments_reach_it():
  class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, y, *, deterministic):
      streams = hc.expand(x, 2)
      connection = hc.HyperConnection(num_streams=2)
      h, coefs = connection(streams, 0)
      h = nn.BatchNorm(use_running_average=deterministic)(h + y)
      h = nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(8)(h))
      return nn.LayerNorm()(hc.reduce(connection.write(streams, h, coefs)))

  keys = {"params": jax.random.key(3), "dropout": jax.random.key(4)}
  for deterministic in (True, False):
    kwargs = {"deterministic": deterministic}
    check_model(Dropped(), X, np.ones_like(X), kwargs=kwargs, rngs=keys, log=None).raise_if_broken()


def test_a_model_that_never_writes_is_told_so():
  class Unwritten(nn.Module):
    @nn.compact
    def __call__(self, x):
      h, _ = hc.HyperConnection(num_streams=2)(hc.expand(x, 2), 0)
      return nn.LayerNorm()(nn.Dense(8)(h))

  report = check_model(Unwritten(), X, log=None)
  assert not report.ok and "it raised" not in str(report), report
  why = names(report.broken)
  assert "HyperConnection_0 reads and never writes" in why["every read has its write"]
  assert why["starts as the residual network"] == "no connection writes"
