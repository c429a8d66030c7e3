"""Executes a notebook in its folder and checks what it shows; .ci/notebook calls it.

python execute_notebook.py NOTEBOOK [RESULT]    RESULT gets the notebook with its outputs

HC_JAX_STEPS (number of steps) and HC_JAX_COMPILED (folder of compiled programs) must be set.
"""

import os
import pathlib
import re
import sys
import time

import nbclient
import nbformat

CELL_SECONDS = 900


def texts(cell, kind="text/plain"):
  """Returns what a cell printed and displayed of a media type, in order."""
  found = []
  for output in cell.outputs:
    if output.output_type == "stream":
      found.append(output.text)
    elif kind in output.get("data", {}):
      found.append(output.data[kind])
  return found


def check(cells, folder):
  """Raises AssertionError where a cell does not show what its reader is told to see."""

  def shows(name, *patterns, kind="text/plain"):
    text = "\n".join(texts(cells[name], kind))
    for pattern in patterns:
      assert re.search(pattern, text), f"cell {name} does not show {pattern!r}, but:\n{text[:3000]}"

  def pictures(name):
    return sum("image/png" in output.get("data", {}) for output in cells[name].outputs)

  steps = int(os.environ["HC_JAX_STEPS"])
  shows("install", r"kept: .*flax .*jax \d.*jaxlib \d.*numpy \d")
  shows("device", r"device  1 x cpu \(cpu\)", r"dtype   float32: a CPU")
  shows("own", r"pass")
  assert not re.search("FAIL", "".join(texts(cells["own"])))
  shows("folder", r"runs      .*/My Drive/hc_jax runs/float32")
  shows("train", r"dhc4, begins at step 0", rf"finished step {steps}\b", r"compiled in")
  shows("train", r"<polyline points=\"\S+ \S+", kind="text/html")
  shows("sample", r"^def ")
  assert pictures("look") == 2, "the pictures of connections are not displayed"
  shows("page", r'^<iframe .*srcdoc="&lt;!DOCTYPE html&gt;', kind="text/html")
  shows("lost", r"residual, begins at step 0", r"checkpoint on disk", r"exit code -9")
  shows("resume", r"residual, resumed at step [1-9]", rf"finished step {steps}\b")
  assert pictures("compare") == 1, "the losses are not drawn"
  table = r"\| residual \| [\d,]+ \| \d.*\n\| DHC×4 \| [\d,]+ \| \d"
  shows("compare", table, kind="text/markdown")
  for name in ("train", "resume"):
    printed = [o.text for o in cells[name].outputs if o.output_type == "stream"]
    assert not printed, f"cell {name} printed outside of its block: {printed}"
    assert len(texts(cells[name])[0].splitlines()) <= 22, f"the block of {name} is too long"
  compiled = pathlib.Path(os.environ["HC_JAX_COMPILED"])
  assert any(compiled.rglob("jit_*")), f"no compiled program is in {compiled}"
  assert not [*folder.rglob("jit_*"), *folder.rglob(".jax_cache")], "the runs have a cache"


def main(path, result=None):
  """Executes the notebook and checks it."""
  for name in ("HC_JAX_STEPS", "HC_JAX_COMPILED"):
    if name not in os.environ:
      sys.exit(f"error: {name} is not set; the checks need it")
  notebook = nbformat.read(path, nbformat.NO_CONVERT)
  nbformat.validate(notebook)
  cells = {cell.id: cell for cell in notebook.cells}
  before = time.monotonic()

  def executed(cell, **_):
    print(f"{time.monotonic() - before:6.1f} s  {cell.id}", flush=True)

  folder = pathlib.Path(path).resolve().parent
  where = {"metadata": {"path": str(folder)}}
  client = nbclient.NotebookClient(
    notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=where
  )
  client.on_cell_executed = executed
  try:
    client.execute()
  finally:
    if result:
      nbformat.write(notebook, result)
  check(cells, folder)
  print(f"{path}: {len(cells)} cells executed, and they show what they should")


if __name__ == "__main__":
  main(*sys.argv[1:])
