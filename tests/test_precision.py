"""Tests of the dtype chosen for a device."""

import types

import jax
import pytest

from hc_jax.precision import choose_dtype


def _device(kind, platform, **more):
  return types.SimpleNamespace(device_kind=kind, platform=platform, **more)


@pytest.mark.parametrize(
  ("device", "dtype"),
  [
    (_device("cpu", "cpu"), "float32"),
    (_device("TPU v5 lite", "tpu"), "bfloat16"),
    (_device("Tesla P100-PCIE-16GB", "gpu", compute_capability="6.0"), "float32"),
    (_device("Tesla V100-SXM2-16GB", "gpu", compute_capability="7.0"), "float32"),
    (_device("Tesla T4", "gpu", compute_capability="7.5"), "float32"),
    (_device("NVIDIA A100-SXM4-40GB", "gpu", compute_capability="8.0"), "bfloat16"),
    (_device("NVIDIA L4", "gpu", compute_capability="8.9"), "bfloat16"),
    (_device("NVIDIA H100 80GB HBM3", "gpu", compute_capability="9.0"), "bfloat16"),
    (_device("NVIDIA B200", "gpu", compute_capability="10.0"), "bfloat16"),
    (_device("AMD Instinct MI250X", "gpu", compute_capability="gfx90a"), "float32"),
    (_device("another", "gpu"), "float32"),
  ],
  ids=lambda value: getattr(value, "device_kind", value),
)
def test_bfloat16_where_there_are_units_for_it(device, dtype):
  found, reason = choose_dtype(device)
  assert found == dtype
  assert device.device_kind in reason or device.platform == "cpu"


def test_the_first_device_by_default():
  assert choose_dtype() == choose_dtype(jax.devices()[0])
