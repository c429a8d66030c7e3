"""Tests of converting state dicts to parameters and back; tests/goldens compares the results."""

import numpy as np
import pytest

from hc_jax import convert
from hc_jax.testing.compiled import normal


def state(n=3, width=5, prefix=""):
  shapes = {
    "static_alpha": (n, n + 1),
    "static_beta": (n,),
    "dynamic_alpha_fn": (width, n + 1),
    "dynamic_beta_fn": (width,),
    "dynamic_alpha_scale": (),
    "dynamic_beta_scale": (),
    "norm.gamma": (width,),
  }
  return {prefix + name: np.asarray(normal(name, *shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize("prefix", ["", "layers.0.1."])
def test_there_and_back(prefix):
  given = state(prefix=prefix)
  params = convert.from_hyper_connections({**given, "other.weight": 0, "branch.bias": 0}, prefix)
  assert {name: value.shape for name, value in params.items()} == {
    "static_read": (1, 3),
    "static_mix": (3, 3),
    "static_write": (3, 1),
    "dynamic_kernel": (5, 5),
    "dynamic_scale": (2,),
    "norm_scale": (5,),
  }
  assert all(value.dtype == np.float32 for value in params.values())
  back = convert.to_hyper_connections(params, prefix)
  assert set(back) == set(given)
  for name, value in given.items():
    np.testing.assert_allclose(back[name], value, atol=2e-7, err_msg=name)


def test_a_missing_name_is_named():
  given = state()
  del given["static_beta"]
  with pytest.raises(ValueError, match=r"'static_beta' is missing.*dynamic_alpha_fn.*prefix"):
    convert.from_hyper_connections(given)
  with pytest.raises(ValueError, match=r"'layers.0.static_alpha' is missing"):
    convert.from_hyper_connections(state(), "layers.0.")


@pytest.mark.parametrize(
  "change",
  [
    {"static_alpha": np.ones((3, 5)), "dynamic_alpha_fn": np.ones((5, 5))},
    {"dynamic_beta_fn": np.ones((5, 2))},
  ],
  ids=["views", "fractions"],
)
def test_fractions_and_views_are_refused(change):
  with pytest.raises(ValueError, match="num_fracs=1 and num_input_views=1"):
    convert.from_hyper_connections({**state(), **change})


def test_mhc_with_several_proposals_is_refused():
  given = state() | {"pre_branch_scale": np.ones(1), "dynamic_alpha_fn": np.zeros((2, 5, 4))}
  with pytest.raises(ValueError, match="2 proposals; only num_dynamic_alpha_proposals=1"):
    convert.from_hyper_connections(given)


def test_what_has_no_counterpart_is_refused():
  params = convert.from_hyper_connections(state())
  with pytest.raises(ValueError, match="norm_bias"):
    convert.to_hyper_connections({**params, "norm_bias": np.zeros(5)})
  static = {name: value for name, value in params.items() if name.startswith("static_")}
  with pytest.raises(ValueError, match="'dynamic_kernel' is missing"):
    convert.to_hyper_connections(static)


def test_olmo_refuses_what_is_not_one():
  with pytest.raises(ValueError, match=r"no model\.layers\.0"):
    convert.from_olmo({"embed.weight": np.ones((2, 2))}, 1)
  layer = {"model.layers.0.self_attn.q_proj.weight": np.ones((6, 6))}
  with pytest.raises(ValueError, match=r"num_heads=4 does not divide"):
    convert.from_olmo(layer, 4)
  with pytest.raises(ValueError, match=r"k_proj.weight' is missing"):
    convert.from_olmo(layer, 2)
