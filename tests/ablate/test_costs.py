"""Tests of the costs of an arm, counted without compiling."""

import pytest

from hc_jax.ablate.running.costs import model_costs
from hc_jax.train.start import language_program
from tests.train import tiny

pytestmark = pytest.mark.usefixtures("one_device")


def flops(**changes):
  config = tiny.config(model__num_layers=3, **changes)
  return model_costs(language_program(config), config)["flops_per_token"]


@pytest.mark.slow
def test_flops_do_not_depend_on_how_layers_run():
  """Scanned layers count as often as they run; rematerialised work counts once."""
  unrolled = flops(model__scan=False)
  assert flops(model__scan=True, model__remat="full") == pytest.approx(unrolled, rel=0.02)
