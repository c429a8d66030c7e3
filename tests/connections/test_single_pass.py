"""Single-pass mHC: the read is carried from site to site, and from the last one to the end."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.analysis import collect_sites, measures, unfold
from hc_jax.connections.carry import split
from hc_jax.testing.compiled import normal
from tests.models import tiny

KEY = jax.random.key(0)
STREAMS, Y = normal("streams", 2, 3, 4, 8), normal("y", 2, 3, 8)


def site(index=0, read=None):
  module = hc.SinglePassMHC(bias_init="onehot", kernel_init_std=0.5, gate_scale_init=0.5)
  (h, coefs), variables = module.init_with_output(KEY, STREAMS, index, read=read)
  return module, variables["params"], h, coefs


def test_the_first_site_reads_stream_0_and_hands_on_the_read_of_mhc():
  module, params, h, coefs = site()
  np.testing.assert_array_equal(h, STREAMS[..., 0, :])
  same = hc.MHC(**{f: getattr(module, f) for f in ("form", "bias_init", "gate_scale_init")})
  _, of_mhc = same.apply({"params": params}, STREAMS, 0)
  np.testing.assert_array_equal(coefs.next_read, of_mhc.read)
  np.testing.assert_array_equal(coefs.write, of_mhc.write)
  np.testing.assert_array_equal(coefs.mix, of_mhc.mix)
  assert of_mhc.next_read is None


def test_a_read_that_is_carried_is_what_the_site_reads():
  read = normal("read", 2, 3, 1, 4)
  _, params, h, coefs = site(1, read)
  np.testing.assert_allclose(h, np.einsum("...vn,...nw->...w", read, STREAMS), rtol=1e-5)
  np.testing.assert_array_equal(coefs.read, read)
  found = hc.site_maps(hc.SinglePassMHC(), params, STREAMS, 1, read)
  np.testing.assert_array_equal(found.read, read)


def test_boundary_takes_the_read_of_the_site_before():
  module, params, _, coefs = site()
  generator = module.generate(params, 1)
  streams, h, made = hc.ops.boundary(STREAMS, Y, coefs, generator)
  np.testing.assert_array_equal(streams, hc.write(STREAMS, Y, coefs))
  np.testing.assert_array_equal(h, hc.read(streams, made))
  np.testing.assert_array_equal(made.read, coefs.next_read)


class ByHand(nn.Module):
  """Two sites of one's own, and the same by `hc.wrap`."""

  wrapped: bool = False

  @nn.compact
  def __call__(self, x):
    carry, dense = hc.expand(x, 4), nn.Dense
    for i in range(2):
      if self.wrapped:
        carry = hc.wrap(dense(8, name=f"dense{i}"), hc.SinglePassMHC, name=f"site{i}")(carry, i)
      else:
        streams, carried = split(carry)
        connection = hc.SinglePassMHC(name=f"site{i}")
        h, coefs = connection(streams, i, **carried)
        streams = connection.write(streams, dense(8, name=f"dense{i}")(h), coefs)
        carry = streams, coefs.next_read
    return hc.Reduce(kind="read")(*carry)


def test_wrap_carries_it_too():
  variables = ByHand().init(KEY, Y)
  out = ByHand().apply(variables, Y)
  params = variables["params"]
  moved = {f"dense{i}": params[f"dense{i}"] for i in range(2)}
  moved |= {f"site{i}": {"connection": params[f"site{i}"]} for i in range(2)}
  np.testing.assert_array_equal(ByHand(wrapped=True).apply({"params": moved}, Y), out)


def test_layers_by_hand_take_and_give_the_pair():
  layer = hc.models.TransformerLayer(2, 8, hc.SinglePassMHC)
  carry, variables = layer.init_with_output(KEY, (STREAMS, None), 0)
  streams, read = layer.apply(variables, carry, 1)
  assert streams.shape == STREAMS.shape and read.shape == (2, 3, 1, 4)


@pytest.mark.parametrize("before", [hc.MHC, hc.Residual])
def test_a_segment_begins_with_a_read_of_its_own(before):
  model = tiny.model(layers=((1, before), (1, hc.SinglePassMHC)), num_layers=None)
  out = jax.eval_shape(lambda: model.init_with_output(KEY, jnp.zeros((1, 3), jnp.int32))[0])
  assert out.shape[:2] == (1, 3)


def test_what_does_not_go_together_is_refused():
  with pytest.raises(ValueError, match="MHC makes its read itself and carries none"):
    hc.MHC().init(KEY, STREAMS, 0, read=normal("read", 2, 3, 1, 4))
  for reduce in ("sum", "mean", "head"):
    with pytest.raises(ValueError, match="would not use the read that the last site"):
      tiny.model(connection=hc.SinglePassMHC, reduce=reduce).check()
  with pytest.raises(ValueError, match="HyperConnection does not; leave reduce unset"):
    tiny.model(connection=hc.HyperConnection, reduce="read").check()
  with pytest.raises(ValueError, match="put it into the last segment"):
    tiny.model(layers=((1, hc.SinglePassMHC), (1, hc.MHC)), num_layers=None).check()
  with pytest.raises(ValueError, match="leave attention_views off"):
    tiny.model(connection=hc.SinglePassMHC, attention_views=True).check()
  with pytest.raises(ValueError, match=r"reads \(1, 4\), but the read that it is given is \(2, 3"):
    site(1, normal("read", 2, 3, 2, 4))
  with pytest.raises(ValueError, match="needs the read that the last site made"):
    hc.Reduce(kind="read").init(KEY, STREAMS)


@pytest.mark.slow
def test_inputs_and_the_end_are_rebuilt_by_the_unfolded_matrix():
  model = tiny.model(connection=hc.SinglePassMHC)
  params = tiny.params(model)
  sites = list(collect_sites(model, params, tiny.TOKENS).values())
  matrix, sources, apart = measures.unfolding(sites)
  assert apart < 1e-4
  hidden = model.apply({"params": params}, tiny.TOKENS, method="hidden")
  np.testing.assert_allclose(unfold.rebuild(matrix, sources)[-1], hidden, rtol=1e-4, atol=1e-5)
