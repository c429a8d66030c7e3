"""Tests that a site's measures use its own maps and streams, and the product to the end."""

import numpy as np
import pytest

from hc_jax.analysis import measures, spectra
from hc_jax.analysis.collect import Site
from hc_jax.coefs import Coefs


def site(mix, read=((1.0, 0.0),), write=((1.0,), (1.0,)), streams=None, views=0):
  """Returns a static site with two streams, two tokens and a width of two."""
  mix, read, write = (None if x is None else np.array(x, np.float32) for x in (mix, read, write))
  streams = np.ones((2, read.shape[-1], 2)) if streams is None else streams
  h = np.ones((2, views, 2)) if views else np.ones((2, 2))
  return Site(Coefs(read=read, write=write, mix=mix), streams, h, np.ones((2, 2)))


A, B = [[2.0, 0.0], [1.0, 1.0]], [[0.0, 3.0], [1.0, 0.0]]


def test_maps_are_the_sites_own_and_products_run_to_the_end():
  first, second = measures.measure([site(A, read=[[1.0, 0.0], [1.0, 2.0]]), site(B)])
  np.testing.assert_allclose(first["sigma"], np.linalg.svd(np.array(A))[1])
  assert first["sigma_max"] == first["sigma"].max() and first["sigma_min"] == first["sigma"].min()
  assert first["identity_distance"] == pytest.approx(np.sqrt(1 + 1))
  product = np.array(B) @ np.array(A)
  assert first["composite_norm_fwd"] == product.sum(1).max() == 6
  assert first["composite_norm_bwd"] == product.sum(0).max() == 5
  assert first["norm_fwd"] == 2 and first["norm_bwd"] == 3
  assert second["composite_norm_bwd"] == second["norm_bwd"] == 3
  # Each stream has half of the reads, summed over slots: shares 2/4 and 2/4.
  assert first["effective_read"] == pytest.approx(2) and second["effective_read"] == 1
  assert first["effective_write"] == pytest.approx(2)


def test_products_end_where_the_number_of_streams_changes():
  one = site(None, read=[[1.0]], write=[[1.0]])
  first, last = measures.measure([site(A), one])
  assert first["composite_norm_fwd"] == first["norm_fwd"] == 2
  assert last["composite_norm_fwd"] == 1 and np.isnan(last["stream_cosine"]).all()


def test_streams_are_measured_token_by_token():
  streams = np.array([[[1.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [1.0, 0.0]]])
  (found,) = measures.measure([site(A, streams=streams)])
  np.testing.assert_allclose(found["energy"], [[0.5, 0.5], [0.9, 0.1]])
  np.testing.assert_allclose(found["stream_cosine"], [0, 1])
  np.testing.assert_allclose(found["effective_energy"], spectra.effective_streams(found["energy"]))


def test_a_network_is_dynamic_as_soon_as_one_map_is():
  dynamic = np.ones((2, 2, 1))
  assert not measures.is_dynamic([site(A), site(B)])
  assert measures.is_dynamic([site(A), site(B, write=dynamic)])
  assert measures.is_dynamic([site(np.ones((2, 2, 2)))])


def test_some_tokens_are_spread_from_the_first_to_the_last():
  streams = np.arange(3 * 4 * 2 * 2, dtype=float).reshape(3, 4, 2, 2)
  whole = Site(site(A).coefs, streams, streams[..., 0], streams[..., 1])
  (few,) = measures.some_tokens([whole], 3)
  flat = streams.reshape(12, 2, 2)
  np.testing.assert_array_equal(few.streams, flat[[0, 6, 11]])
  np.testing.assert_array_equal(few.branch_output, flat[[0, 6, 11]][..., 1])
  np.testing.assert_array_equal(few.coefs.mix, np.tile(np.array(A), (3, 1, 1)))
  assert len(measures.some_tokens([whole], 99)[0].streams) == 12


def test_the_input_of_several_views_is_their_mean():
  several = site(A, views=3)
  several.branch_input[:, 1] = 4.0
  np.testing.assert_array_equal(measures.layer_input(several), np.full((2, 2), 2.0))
  np.testing.assert_array_equal(measures.layer_input(site(A)), np.ones((2, 2)))
