"""A path with spaces, as that of a mounted drive: the commands, and where compiled programs are."""

import os
import pathlib
import subprocess
import sys

import pytest

from hc_jax import cli
from tests.train import tiny

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_a_run_under_a_path_with_spaces_keeps_its_compiled_programs_elsewhere(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv("HC_JAX_DATA", str(tmp_path / "my data"))
  drive, compiled = tmp_path / "My Drive" / "hc_jax runs", tmp_path / "local disk" / "compiled"
  text = tmp_path / "my text.txt"
  text.write_bytes(pathlib.Path(tiny._source.__file__).read_bytes())
  run = str(drive / "a run")
  small = tiny.FLAGS | {"data.name": "text_files", "data.files": f"('{text}',)"}
  small |= {"train.compilation_cache": compiled, "train.eval_every": 2, "model.num_layers": 1}
  env = {key: value for key, value in os.environ.items() if not key.startswith("JAX_COMP")}
  env["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # one device, compiled soon

  def train(num_steps):
    flags = [f"--config.{key}={value}" for key, value in small.items()]
    flags += [f"--workdir={run}", f"--config.train.num_steps={num_steps}"]
    command = [sys.executable, "-m", "hc_jax", "train", "quickstart", *flags]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout

  assert "/My Drive/hc_jax runs/a run, begins at step 0" in train(2)
  assert "a run, resumed at step 2" in train(4)
  assert [*compiled.rglob("jit_*")] and not [*drive.rglob("jit_*")]
  assert [path.name for path in drive.iterdir()] == ["a run"]

  assert cli.main(["sample", run, "--prompt=def ", "--tokens=4"]) == 0
  assert cli.main(["inspect", run]) == 0
  assert cli.main(["analyze", run, "--formats=png"]) == 0
  assert f"wrote {run}/analysis/analysis.html" in capsys.readouterr().out
