"""Simplified AltUp: every site reads a sum of all streams and writes into one stream, in turn."""

import jax
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.analysis import collect_sites
from hc_jax.analysis.measures import unfolding
from hc_jax.analysis.parts import look
from hc_jax.testing.compiled import normal
from tests.models import tiny

KEY = jax.random.key(0)
STREAMS, Y = normal("streams", 2, 3, 4, 8), normal("y", 2, 3, 8)


@pytest.mark.parametrize("index", [0, 3, 6])
def test_a_site_reads_the_weighted_sum_and_writes_into_one_stream(index):
  module, h = hc.SimplifiedAltUp(), normal("h", 1, 4)
  assert module.num_params(8) == 4
  start = hc.init_site(module, KEY, 8, index)
  np.testing.assert_array_equal(start["static_read"], np.ones((1, 4)))
  coefs = hc.site_maps(module, {"static_read": h}, STREAMS, index)
  found = hc.read(STREAMS, coefs)
  np.testing.assert_allclose(found, np.einsum("n,...nw->...w", h[0], STREAMS), rtol=1e-5, atol=1e-6)
  want = np.array(STREAMS)
  want[..., index % 4, :] += Y
  np.testing.assert_array_equal(hc.write(STREAMS, Y, coefs), want)
  assert coefs.mix is None and coefs.slot == index % 4


def test_its_layer_inputs_are_rebuilt_from_one_stream_and_zeros():
  model = tiny.model(connection=hc.SimplifiedAltUp, num_layers=3)
  sites = list(collect_sites(model, tiny.params(model), tiny.TOKENS).values())
  assert np.all(sites[0].streams[..., 1:, :] == 0)
  matrix, _, error = unfolding(sites)
  assert error < 1e-5
  reads = np.stack([site.coefs.read[0] for site in sites])  # h of every site
  for k in range(1, 6):  # the embedding is in stream 0, output j in stream j mod 4
    np.testing.assert_allclose(matrix[..., k, 0].ravel(), reads[k, 0], rtol=1e-6)
    held = [reads[k, j % 4] for j in range(k)]
    np.testing.assert_allclose(matrix[..., k, 1 : k + 1].reshape(-1), held, rtol=1e-6)


def test_a_report_says_what_each_stream_holds():
  model = tiny.model(connection=hc.SimplifiedAltUp)
  found, _ = look(collect_sites(model, tiny.params(model), tiny.TOKENS))
  tables = {part.name: part.table.rows for part in found}
  weights = {tuple(row[:3]): row[3] for row in tables["unfolded_streams"]}
  held = np.zeros((4, 5))  # at the end: the embedding in stream 0, output j in stream j mod 4
  held[0, 0] = held[0, 1] = held[1, 2] = held[2, 3] = held[3, 4] = 1
  assert [[weights[i, 4, j] for j in range(-1, 4)] for i in range(4)] == held.tolist()
  last = [row[3] for row in tables["unfolded"] if row[0].startswith("this") and row[1] == 4]
  assert last == [1.0] * 5


def test_other_beginnings_have_no_matrix():
  model = tiny.model(connection=hc.SimplifiedAltUp, expand="embedding", num_layers=1)
  sites = list(collect_sites(model, tiny.params(model), tiny.TOKENS).values())
  with pytest.raises(ValueError, match="neither as copies of one embedding nor as one embed"):
    unfolding(sites)


def test_fractions_are_refused():
  with pytest.raises(ValueError, match="SimplifiedAltUp has one fraction, not fractions=2"):
    hc.SimplifiedAltUp(fractions=2).init(KEY, STREAMS, 0)
