"""Runs as a stranger may send them: written without training, then armed with an attack."""

import hashlib
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import models, sharding
from hc_jax.runs import checkpoint, manifest, workdir
from hc_jax.step.loss import token_init
from hc_jax.step.optim import make_optimizer
from hc_jax.step.state import abstract_state
from tests.train import tiny

STEP = 3
FLAGS = {"model__d_model": 8, "model__num_layers": 1, "model__scan": False}


def config(**changes):
  return tiny.config(**{**FLAGS, **changes})


def make(folder, of=None, steps=None, fingerprint="0" * 32):
  """Writes a run with random parameters.

  Args:
    folder: new folder.
    of: config of the run.
    steps: val/loss by step of a checkpoint; None for one that was not evaluated.
    fingerprint: fingerprint of the run's text.
  """
  folder.mkdir()
  made, steps = of or config(), steps or {STEP: 1.0}
  model = models.make_model(made.model, vocab_size=257)
  optimizer, _ = make_optimizer(made.optim, made.train.num_steps)
  mesh = sharding.make_mesh("dp", devices=jax.devices()[:1])
  abstract = abstract_state(token_init(model, made.data.length), optimizer, mesh=mesh, preset="dp")
  rng = np.random.default_rng(0)

  def numbers(leaf, step):
    floats = jnp.issubdtype(leaf.dtype, jnp.floating)
    values = rng.normal(size=leaf.shape) if floats else np.full(leaf.shape, step)
    return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

  description = tiny.description(made)
  workdir.save_config(str(folder), description)
  data = {"fingerprint": fingerprint, "tokenizer": "bytes", "vocab_size": 257}
  card = checkpoint.make_card(*description, data)
  rows = []
  with checkpoint.Checkpoints(str(folder), len(steps)) as checkpoints:
    for step, loss in steps.items():
      state = jax.tree.map(lambda leaf, step=step: numbers(leaf, step), abstract)
      checkpoints.save(state, step, card, loss and ("val/loss", loss))
      rows.append({"step": step, "train/loss": 2.5} | ({"val/loss": loss} if loss else {}))
  (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def at(run, name=""):
  """Returns a path in the run's checkpoint."""
  return run / "checkpoints" / str(STEP) / name


def seal(run):
  """Writes a manifest that matches the files as they are now."""
  at(run, manifest.FILE).unlink(missing_ok=True)
  manifest.write(str(at(run)), STEP)


def edit(path, change):
  """Changes the JSON in a file by a function that returns a new value, or edits it in place."""
  values = json.loads(path.read_text())
  new = change(values)
  path.write_text(json.dumps(values if new is None else new))


def edit_config(key, value):
  """Returns a function that arms a run by one key of its config.json."""

  def arm(run):
    def change(values):
      *groups, name = key.split(".")
      group = values["config"]
      for part in groups:
        group = group[part]
      group[name] = value

    edit(run / "config.json", change)

  return arm


def edit_sealed(name, change):
  """Returns a function that arms a run by JSON in its checkpoint, with a matching manifest."""

  def arm(run):
    edit(at(run, name), change)
    seal(run)

  return arm


def edit_array(**changes):
  """Returns a function that arms a run by TensorStore's description of an array."""

  def arm(run):
    store = _store(at(run, "params"))
    key = next(key for key in store.list().result() if key.endswith(b"embedding/.zarray"))
    values = json.loads(store.read(key).result().value) | changes
    store.write(key, json.dumps(values).encode()).result()
    seal(run)

  return arm


def _store(folder, **options):
  import tensorstore

  return tensorstore.KvStore.open(
    {"driver": "ocdbt", "base": f"file://{folder}/"} | options
  ).result()


def move_data(where):
  """Returns a function that arms a run by moving the arrays' file from `params/` to `where`."""

  def arm(run):
    params = at(run, "params")
    old = _store(params)
    items = {key: old.read(key).result().value for key in old.list().result()}
    (params / "manifest.ocdbt").unlink()
    for folder in ("d", "ocdbt.process_0"):
      shutil.rmtree(params / folder)
    plain = {"compression": None, "max_inline_value_bytes": 0}  # so that paths can be edited
    new = _store(params, config=plain)
    for key, value in items.items():
      new.write(key, value).result()
    manifest_file = params / "manifest.ocdbt"
    content = manifest_file.read_bytes()[:-4]
    for file in sorted((params / "d").iterdir()):
      name = f"d/{file.name}"
      moved = where + name[len(where) :]
      if name.encode() in content:
        shutil.move(file, params / moved)
        content = content.replace(name.encode(), moved.encode())
    manifest_file.write_bytes(content + _crc32c(content).to_bytes(4, "little"))
    seal(run)

  return arm


def _crc32c(content):
  value = 0xFFFFFFFF
  for byte in content:
    value ^= byte
    for _ in range(8):
      value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
  return value ^ 0xFFFFFFFF


def replace(name, kind, target=""):
  """Returns a function that arms a run by replacing a path with a link, a pipe or a folder."""

  def arm(run):
    path = run / name
    if path.is_dir() and not path.is_symlink():
      path.rename(run.parent / "moved")
    else:
      path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
      path.symlink_to(target)
    elif kind == "hard link":
      os.link(run.parent / target, path)
    else:
      {"pipe": os.mkfifo, "folder": os.mkdir}[kind](path)

  return arm


def write(name, text):
  """Returns a function that arms a run by other text in a file."""

  def arm(run):
    path = run / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

  return arm


def snapshot(folder):
  """Returns names, kinds and contents below a folder, to check that nothing changes."""
  found = {}
  for path in sorted(pathlib.Path(folder).rglob("*")):
    plain = path.is_file() and not path.is_symlink()
    found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if plain else None
  return found
