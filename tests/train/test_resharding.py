"""A checkpoint from any number of devices can be resumed on any other number."""

import shutil

import jax
import numpy as np
import pytest

from hc_jax.runs import checkpoint
from hc_jax.train import read_metrics
from tests.train import tiny
from tests.train.conftest import give_devices

DEVICES = jax.devices()
MESHES = {
  8: {"mesh__preset": "fsdp_tp", "mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2},
  2: {"mesh__preset": "fsdp", "mesh__data": 1, "mesh__fsdp": 2},
  1: {},
}


@pytest.mark.slow
@pytest.mark.skipif(len(DEVICES) < 8, reason="needs eight devices; tests/conftest.py forces them")
@pytest.mark.usefixtures("one_device")
def test_8_to_2_to_1_and_1_to_8(tmp_path, monkeypatch, capsys):
  def train(name, devices, steps):
    give_devices(monkeypatch, DEVICES[:devices])
    tiny.start(tmp_path / name, train__num_steps=steps, train__eval_every=0, **MESHES[devices])
    return capsys.readouterr().out

  train("one", 1, 20)
  shutil.copytree(tmp_path / "one", tmp_path / "up")
  for devices, steps in ((8, 7), (2, 14), (1, 20)):
    said = train("down", devices, steps)
    assert f"device  {devices} x cpu" in said
  assert "resumed at step 14" in said and "mesh.preset 'fsdp' -> 'dp'" in said
  shutil.rmtree(checkpoint.path_of(str(tmp_path / "up"), 20))
  assert "resumed at step 10" in train("up", 8, 20)

  rows = {name: read_metrics(str(tmp_path / name)) for name in ("one", "down", "up")}
  for name in ("down", "up"):
    assert [row["step"] for row in rows[name]] == [row["step"] for row in rows["one"]]
    for key in ("train/loss", "train/grad_norm"):
      pairs = [(a[key], b[key]) for a, b in zip(rows[name], rows["one"], strict=True) if key in b]
      assert len(pairs) == 20
      np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=1e-5, atol=1e-5, err_msg=key)
    assert rows[name][-1]["val/loss"] == pytest.approx(rows["one"][-1]["val/loss"], abs=1e-5)
