"""Tests that unfolded matrices rebuild every input, and match known networks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.analysis import collect_sites, unfold
from hc_jax.testing.compiled import jit
from hc_jax.testing.reference import hyper as reference

TOKENS = jnp.arange(12).reshape(2, 6) % 11


def random_sites(n, count, lead=(), fractions=1, seed=0):
  rng = np.random.default_rng(seed)
  shapes = {"read": (fractions, n), "write": (n, fractions), "mix": (n, n)}
  return [
    hc.Coefs(**{k: rng.normal(size=(*lead, *shape)) for k, shape in shapes.items()})
    for _ in range(count)
  ]


def to_reference(site):
  return reference.Matrices(A_m=site.read.T, A_r=site.mix.T, B=site.write.T)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_it_is_the_reference(n):
  sites = random_sites(n, 5)
  want = reference.unfold([to_reference(site) for site in sites])
  np.testing.assert_allclose(unfold.unfold(sites), want, rtol=0, atol=1e-12 * np.abs(want).max())
  flipped = [site.replace(mix=site.mix.T) for site in sites]
  assert n == 1 or not np.allclose(unfold.unfold(flipped), want)


def test_tokens_are_unfolded_one_by_one():
  sites = random_sites(3, 4, lead=(5,))
  found = unfold.unfold(sites)
  for t in range(5):
    one = [jax.tree.map(lambda x, t=t: x[t], site) for site in sites]
    np.testing.assert_allclose(found[t], unfold.unfold(one), atol=1e-12)


def test_the_streams_make_the_inputs():
  """`C(0)[k] = sum_i read[k, i] C(i)[k]`, and the sum of C(1..n) after the last site."""
  sites = random_sites(3, 4)
  streams, inputs = unfold.unfold_streams(sites), unfold.unfold(sites)
  assert streams.shape == (3, 5, 5)
  for k, site in enumerate(sites):
    np.testing.assert_allclose(site.read[0] @ streams[:, k], inputs[k], atol=1e-12)
  np.testing.assert_allclose(streams[:, -1].sum(0), inputs[-1], atol=1e-12)


class Chain(nn.Module):
  """Sites around cheap branches; if the number of streams changes, their mean is copied."""

  connections: tuple

  @nn.compact
  def __call__(self, x):
    now = self.connections[0](parent=None)
    streams = hc.expand(x, now.num_streams, now.fractions)
    for index, make in enumerate(self.connections):
      connection = make(name=f"site_{index}")
      if connection.num_streams != now.num_streams:
        mean = hc.reduce(streams, now.fractions) * now.fractions / now.num_streams
        streams, now = hc.expand(mean, connection.num_streams, now.fractions), connection
      h, coefs = connection(streams, index)
      streams = connection.write(streams, jnp.sin(h + index), coefs)
    return streams


def sites_of(model, inputs):
  """Returns the sites of a network whose connections are far from their initial values."""
  params = nn.unbox(jit(model.init)(jax.random.key(0), inputs)).get("params", {})
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda x: np.float32(x + 0.3 * rng.normal(size=x.shape)), params)
  return list(collect_sites(model, params, inputs).values())


def errors(sites, change=lambda c: c):
  """Returns the relative distance of each rebuilt input from the actual one."""
  n, m = sites[0].coefs.write.shape[-2:]
  embedding = sites[0].streams[..., :m, :].reshape(*TOKENS.shape, -1)
  matrix = change(unfold.unfold([site.coefs for site in sites]))
  rebuilt = unfold.rebuild(matrix, [embedding, *(site.branch_output for site in sites)])
  return [
    np.linalg.norm(made - site.branch_input) / np.linalg.norm(site.branch_input)
    for made, site in zip(rebuilt, sites, strict=False)
  ]


CONNECTIONS = {
  "residual": hc.Residual,
  "static": functools.partial(hc.HyperConnection, num_streams=3, dynamic=False),
  "dynamic": functools.partial(hc.HyperConnection, num_streams=3),
  "fractions": functools.partial(hc.FracConnection, num_streams=4),
}


@pytest.mark.parametrize("name", CONNECTIONS)
def test_every_layers_input_is_rebuilt(name):
  x = jax.random.normal(jax.random.key(2), (*TOKENS.shape, 8))
  sites = sites_of(Chain((CONNECTIONS[name],) * 5), x)
  assert len(sites) == 5
  assert max(errors(sites)) < 1e-5
  assert max(errors(sites, lambda c: c.swapaxes(-1, -2))) > 0.1
  if name == "dynamic":  # the mean over tokens is not the matrix of any token
    assert max(errors(sites, lambda c: c.mean((0, 1), keepdims=True))) > 1e-3


def test_every_layers_input_of_a_language_model():
  """Layers are scanned and rematerialised, with the default connection."""
  model = hc.models.TransformerLM(vocab_size=11, d_model=4, num_layers=2, num_heads=1)
  sites = sites_of(model, TOKENS)
  assert len(sites) == 4
  assert max(errors(sites)) < 1e-5


def test_segments_with_other_numbers_of_streams():
  two = functools.partial(hc.HyperConnection, num_streams=2, dynamic=False)
  x = jax.random.normal(jax.random.key(2), (*TOKENS.shape, 8))
  kinds = (hc.Residual, CONNECTIONS["static"], CONNECTIONS["static"], two, two)
  sites = sites_of(Chain(kinds), x)
  assert [site.coefs.read.shape[-1] for site in sites] == [1, 3, 3, 2, 2]
  assert max(errors(sites)) < 1e-5


def test_known_arrangements():
  lower = np.tril(np.ones((5, 5)))
  found = unfold.baselines(4)
  np.testing.assert_array_equal(found["Pre-Norm"], lower)
  g = np.sqrt(0.5)
  k, j = np.indices((5, 5))
  want = lower * g ** (k - np.maximum(j - 1, 0))  # T_j is normed k - j + 1 times, T_0 k times
  np.testing.assert_allclose(found["Post-Norm"], want, atol=1e-15)
  ptb = [[1, 0, 0, 0, 0]] * 2 + [[1, 1, 1, 0, 0]] * 2 + [[1, 1, 1, 1, 1]]
  np.testing.assert_array_equal(found["PTB"], ptb)
  hops = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 1, 1, 0], [1, 0, 1, 0, 1]]
  np.testing.assert_array_equal(found["two-hop"], hops)


def test_what_has_no_such_matrix_is_refused():
  site = random_sites(2, 1)[0]
  with pytest.raises(ValueError, match="several views"):
    unfold.unfold([site.replace(read=np.ones((3, 2)))])
  with pytest.raises(ValueError, match="fractions"):
    unfold.unfold([site, *random_sites(2, 1, fractions=2)])
  with pytest.raises(ValueError, match="at least one"):
    unfold.unfold([])
  with pytest.raises(ValueError, match="streams"):
    unfold.unfold_streams([site, *random_sites(3, 1)])
