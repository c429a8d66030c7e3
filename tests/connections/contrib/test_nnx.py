"""The variants of contrib as NNX modules: bitwise the Linen ones."""

import functools

import numpy as np
import pytest
from flax import nnx

import hc_jax.nnx
from hc_jax.connections import contrib
from hc_jax.testing.compiled import normal

PLACED = (contrib.PartitionedHC, contrib.MultiHeadAttentionResiduals)
FREE = (contrib.CayleyHC, contrib.SpectralSphereHC, contrib.NewtonHC, contrib.ContinuousHC)


@pytest.mark.slow
@pytest.mark.parametrize("cls", PLACED + FREE)
def test_an_nnx_site_is_bitwise_the_linen_one(cls):
  fields = {"num_sites": 4} if cls in PLACED else {}
  site = hc_jax.nnx.of(cls)(16, 3, **fields, rngs=nnx.Rngs(0))
  module = site.module
  streams = normal("x", 2, module.num_streams, 16 // module.fractions)
  params = {name: getattr(site, name)[...] for name in site.names}
  apply = functools.partial(module.apply, {"params": params})
  h, coefs = site(streams)
  want, maps = apply(streams, 3)
  np.testing.assert_array_equal(h, want)
  written = apply(streams, h, maps, method="write")
  np.testing.assert_array_equal(site.write(streams, h, coefs), written)
