"""`hc-jax inspect` on whole and damaged runs, and on folders without a run."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import hc_jax as hc
from hc_jax import cli, train
from hc_jax.params import named_leaves
from hc_jax.runs import inspect
from hc_jax.tables import in_bytes


def lines_of(workdir, step=None):
  lines = []
  damaged = inspect.report(str(workdir), step, lines.append)
  return "\n".join(lines), damaged


def test_a_run_as_it_is(finished):
  text, damaged = lines_of(finished)
  assert damaged == 0 and "DAMAGED" not in text
  by_step = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
  row = train.read_metrics(str(finished))[-1]
  files = [p for p in (finished / "checkpoints" / "10").rglob("*") if p.is_file()]
  size = in_bytes(sum(p.stat().st_size for p in files))
  assert by_step["5"][2:] == ["-", "good"]
  assert by_step["10"] == [*size.split(), f"{row['val/loss']:.4f}", "good"]
  assert by_step["connection"] == ["hc", "num_streams=2"]
  assert "py_stdlib, fingerprint tiny" in text and "bytes, vocabulary 257" in text
  assert "mix[i, j] carries stream j into stream i" in text and "orbax-checkpoint" in text

  run = train.load_run(str(finished))
  leaves = dict(named_leaves(run.params))
  for path, leaf in leaves.items():
    shape, dtype, _, count = by_step[path]
    assert shape == "x".join(map(str, leaf.shape)) and dtype == "float32"
    assert count == f"{leaf.size:,}"
  total = sum(leaf.size for leaf in leaves.values())
  assert by_step["total"][0] == f"{total:,}" and f"({total:,} float32)" in text
  static = sum(leaf.size for path, leaf in leaves.items() if "static" in path or "scale" in path)
  assert by_step["without"] == [f"{static:,}"]
  assert by_step["with"] == ["weight", "decay", f"{total - static:,}"]
  assert "card of step 10\n" in text and "parameters of step 10 " in text
  assert "newest metrics, of step 10" in text and f"{row['train/loss']:.6g}" in text
  assert "card of step 5" in lines_of(finished, 5)[0]


def test_what_is_damaged_is_named(finished, capsys):
  file = next((finished / "checkpoints" / "10" / "params" / "d").iterdir())
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)
  text, damaged = lines_of(finished)
  assert damaged == 1
  assert f"DAMAGED: params/d/{file.name} has changed" in text
  assert "card of step 5" in text
  text, _ = lines_of(finished, 10)
  assert "checkpoint 10 is damaged: no card" in text and "card of step" not in text
  assert cli.main(["inspect", str(finished)]) == 1

  (finished / "checkpoints" / "5" / "manifest.json").unlink()
  (finished / "config.json").write_text("{")
  text, damaged = lines_of(finished)
  assert damaged == 3 and "no checkpoint is good" in text
  assert "did not come to an end" in text and "config.json is DAMAGED" in text
  (finished / "rejected" / "7").mkdir(parents=True)
  assert "rejected/: 7" in lines_of(finished)[0]


def test_what_is_not_there(finished, tmp_path, capsys):
  with pytest.raises(hc.UserError, match="no checkpoint 3; there are: 5, 10"):
    inspect.report(str(finished), 3)
  shutil.rmtree(finished / "checkpoints")
  (finished / "metrics.jsonl").unlink()
  text, damaged = lines_of(finished)
  assert damaged == 0 and "no checkpoint yet" in text and "no metrics yet" in text
  assert cli.main(["inspect", str(tmp_path / "none")]) == 2
  assert "holds no run" in capsys.readouterr().err


@pytest.mark.slow
def test_it_needs_no_accelerator(finished):
  """Runs with JAX_PLATFORMS=tpu on a machine without a TPU."""
  env = os.environ | {"JAX_PLATFORMS": "tpu"}
  command = [sys.executable, "-m", "hc_jax", "inspect", str(finished)]
  root = pathlib.Path(inspect.__file__).parents[2]
  done = subprocess.run(
    command, env=env, capture_output=True, text=True, timeout=120, check=False, cwd=root
  )
  assert done.returncode == 0, done.stderr
  assert "total" in done.stdout
