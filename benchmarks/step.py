"""Measures a training step with each connection: forward, backward and AdamW, on random tokens.

All contenders train in turn in one process, with the step that `train.py` uses, and without
compilation and warm-up. Ratios are to the residual connection. The row `direct` is the same
residual model with `x + y` written out.

    python benchmarks/step.py                              # a small float32 model on this CPU
    python benchmarks/step.py --shape=olmo_1b --json=step.json     # bfloat16, for a GPU or TPU
    python benchmarks/step.py --rows=residual,dhc4 --config.model.remat=none
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import timing

ROOT = pathlib.Path(__file__).resolve().parents[1]

_SMALL = {
  "model.d_model": 256,
  "model.num_layers": 6,
  "model.num_heads": 4,
  "model.vocab_size": 256,
  "model.dtype": "float32",
  "model.positions": "rotary",
  "model.scan": False,
  "model.remat": "none",
  "data.length": 256,
  "train.batch_size": 8,
}
# Shapes by name: a config, and the keys that differ from it.
SHAPES = {
  "small": ("base", _SMALL),
  "tiny": ("base", _SMALL | {"model.d_model": 32, "model.num_layers": 2, "data.length": 16}),
  "olmo_1b": (
    "olmo_1b",
    {"train.batch_size": 8, "model.scan": True, "model.remat": "branches"},
  ),
}
_STATIC = {"model.connection.dynamic": False}
# Keys of model.connection that differ, by the name of the row.
ROWS = {
  "residual": {"model.connection.name": "residual"},
  "direct": {"model.connection.name": "residual"},
  "shc2": {"model.connection.num_streams": 2, **_STATIC},
  "shc4": {"model.connection.num_streams": 4, **_STATIC},
  "dhc2": {"model.connection.num_streams": 2},
  "dhc4": {"model.connection.num_streams": 4},
  "frac4": {"model.connection.name": "frac", "model.connection.num_streams": 4},
  **{
    f"{name}4": {"model.connection.name": name, "model.connection.num_streams": 4}
    for name in ("ghc", "altup", "mhc", "identity", "mhc_lite", "mhc_per_stream", "kromhc", "ohc")
  },
}
QUICK = "residual,direct,shc2,shc4,dhc2,dhc4"


def load(shape, row="residual", more=()):
  """Returns the config of a row."""
  from hc_jax.config import load_config

  name, changes = SHAPES[shape]
  settings = [f"{key}={value}" for key, value in {**changes, **ROWS[row]}.items()]
  return load_config(
    str(ROOT / "configs" / f"{name}.py"), [f"--config.{s}" for s in settings] + list(more)
  )


def make(config, direct=False):
  """Compiles the step of a config, and returns it as a program with its own state and batch."""
  import jax

  from hc_jax import models, sharding
  from hc_jax.step.loss import token_init, token_loss, token_weight
  from hc_jax.step.optim import make_optimizer
  from hc_jax.step.state import abstract_state, create_state
  from hc_jax.step.step import jit_train_step

  mesh = sharding.make_mesh(config.mesh.preset, **{a: config.mesh[a] for a in sharding.AXES})
  optimizer, schedule = make_optimizer(config.optim, config.train.num_steps)
  model = _direct(config.model) if direct else models.make_model(config.model)
  options = {"mesh": mesh, "preset": config.mesh.preset}
  rows, length = config.train.batch_size, config.data.length
  tokens = jax.random.randint(jax.random.key(1), (rows, length + 1), 0, config.model.vocab_size)
  batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
  batch["mask"] = (batch["targets"] >= 0).astype("float32")
  with sharding.use_mesh(mesh, config.mesh.preset):
    batch = {k: jax.device_put(v, sharding.batch_sharding(mesh)) for k, v in batch.items()}
    state = create_state(token_init(model), optimizer, 0, **options)
    step = jit_train_step(
      abstract_state(token_init(model), optimizer, **options),
      loss=token_loss(model),
      weight=token_weight,
      optimizer=optimizer,
      schedule=schedule,
      accumulation=config.train.accumulation,
    )
    return timing.jax_program(step, state, batch, carries=True)


def _direct(model):
  import jax.numpy as jnp

  from benchmarks.direct import DirectLM

  return DirectLM(
    vocab_size=model.vocab_size,
    d_model=model.d_model,
    num_layers=model.num_layers,
    num_heads=model.num_heads,
    d_ff=model.d_ff or 4 * model.d_model,
    activation=model.activation,
    dtype=jnp.dtype(model.dtype),
  )


def parse(argv):
  parser = argparse.ArgumentParser(
    description=__doc__.split("\n")[0], epilog="--config.KEY=VALUE changes the shape's config."
  )
  parser.add_argument("--shape", choices=SHAPES, default="small", help="shape of the model (small)")
  parser.add_argument(
    "--rows", default=QUICK, help=f"contenders, some of {', '.join(ROWS)}; 'all' ({QUICK})"
  )
  parser.add_argument("--rounds", type=int, default=15, help="runs of each contender (15)")
  parser.add_argument("--json", type=pathlib.Path, help="write all figures to this file too")
  return parser.parse_known_args(argv)


def main(argv=None):
  flags, more = parse(argv)
  names = timing.chosen("" if flags.rows == "all" else flags.rows, ROWS)
  facts = timing.about()
  print(timing.describe(facts))
  programs, config = {}, None
  for name in names:
    config = load(flags.shape, name, more)
    programs[name] = make(config, direct=name == "direct")
  m = config.model
  title = (
    f"one step, {config.train.batch_size} x {config.data.length} tokens, d = {m.d_model}, "
    f"{m.num_layers} layers, vocabulary {m.vocab_size}, {m.dtype}, remat {m.remat}"
  )
  rows = timing.interleave(programs, flags.rounds)
  timing.print_rows(title, rows, base="residual")
  first, *others = names
  for name in others:
    if found := rows[name]["cpu_over_first"]:
      mean, low, high = found
      print(
        f"\nprocessor time of {name} over {first}, {flags.rounds} pairs: {mean:.2f}, "
        f"95 % interval {low:.2f} to {high:.2f}"
      )
  timing.write_json(flags.json, facts, {title: rows})
  return 0


if __name__ == "__main__":
  sys.exit(main())
