"""Comparison with the installed OLMo of Hugging Face transformers: `make parity`."""

import pytest

WHY = "a live peer of the extra `parity` is not installed; `make parity` installs and compares"
pytest.importorskip("torch", reason=WHY)
pytest.importorskip("transformers", reason=WHY)

from tests.goldens import make, ours  # noqa: E402

SIZES = {
  "goldens'": {},
  "wider": {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "vocab_size": 101,
    "length": 32,
  },
}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits(tied, sizes):
  """Compares logits for random weights of standard deviation 0.3, which give large logits."""
  case = make.olmo(tied, seed=1, **SIZES[sizes])
  assert ours.olmo_distance(case, tied, 4) < ours.LOGITS


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_goldens_are_what_the_peer_computes(name):
  golden, versions = make.load("olmo")
  fresh = make.olmo(name == "tied")
  assert set(fresh) == set(golden[name])
  for key, value in fresh.items():
    assert ours.distance(golden[name][key], value) < ours.LOGITS, (name, key, versions)
