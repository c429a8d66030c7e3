"""Compares two ways of streams from stage to stage, in a small hierarchical transformer.

Pictures of 8 x 8 are classified by two stages of window attention, as in Swin, with patch merging
in between. The arm "residual" has one stream. "reduce" merges patches of the streams' mean and
copies the result. "per_stream" merges patches of each stream, with the same weights. A picture has
two patterns of stripes side by side, and its label says whether they have the same direction. The
pictures are new at each step.

    python -m benchmarks.stages [--steps=800] [--seeds=8] [--out=FOLDER]
"""

import argparse
import functools
import tempfile

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

import hc_jax as hc
from hc_jax import ablate, train

WINDOW = 4
CROSSINGS = ("reduce", "per_stream")


def windows(x):
  """Cuts `[B, H, W, d]` into windows, `[B, H / 4, W / 4, 16, d]`."""
  b, height, width, d = x.shape
  x = x.reshape(b, height // WINDOW, WINDOW, width // WINDOW, WINDOW, d).swapaxes(2, 3)
  return x.reshape(b, height // WINDOW, width // WINDOW, WINDOW * WINDOW, d)


def together(x):
  """Puts windows together again, the inverse of `windows`."""
  b, rows, columns, _, d = x.shape
  x = x.reshape(b, rows, columns, WINDOW, WINDOW, d).swapaxes(2, 3)
  return x.reshape(b, rows * WINDOW, columns * WINDOW, d)


class Attention(nn.Module):
  """Attention within windows, which every other site shifts; the edges wrap around."""

  shift: int

  @nn.compact
  def __call__(self, h):
    h = jnp.roll(nn.LayerNorm()(h), (-self.shift, -self.shift), (1, 2))
    y = together(nn.MultiHeadDotProductAttention(num_heads=2)(windows(h)))
    return jnp.roll(y, (self.shift, self.shift), (1, 2))


class FeedForward(nn.Module):
  """Norm, and two layers."""

  @nn.compact
  def __call__(self, h):
    return nn.Dense(h.shape[-1])(nn.gelu(nn.Dense(2 * h.shape[-1])(nn.LayerNorm()(h))))


class Merge(nn.Module):
  """Patch merging: `[B, H, W, ..., d]` -> `[B, H / 2, W / 2, ..., 2 d]`."""

  @nn.compact
  def __call__(self, x):
    quarters = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    x = nn.LayerNorm()(jnp.concatenate(quarters, axis=-1))
    return nn.Dense(x.shape[-1] // 2, use_bias=False)(x)


class Swin(nn.Module):
  """Two stages of two blocks, the second of twice the width."""

  connection: hc.Connection
  crossing: str = "reduce"
  width: int = 16

  @nn.compact
  def __call__(self, pictures):
    n, index = self.connection.num_streams, 0
    streams = hc.expand(nn.Dense(self.width)(pictures), n)
    for stage in range(2):
      if stage and self.crossing == "per_stream":
        streams = Merge(name="merge")(streams)
      elif stage:
        streams = hc.expand(Merge(name="merge")(hc.Reduce(kind="mean")(streams)), n)
      for block in range(2):
        for branch in (Attention(block % 2 * (WINDOW // 2)), FeedForward()):
          streams = hc.wrap(branch, self.connection)(streams, index)
          index += 1
    x = nn.LayerNorm()(hc.reduce(streams))
    return nn.Dense(1)(x.mean((1, 2)))[..., 0]


class Pictures:
  """`batches[s]` makes step s + 1."""

  def __init__(self, seed, size=32):
    self.seed, self.size = seed, size

  def __getitem__(self, s):
    rng = np.random.default_rng((self.seed, s))
    angle = rng.integers(4, size=(self.size, 2)) * np.pi / 4
    same = rng.integers(2, size=self.size)
    angle[:, 1] = np.where(
      same, angle[:, 0], angle[:, 0] + rng.integers(1, 4, self.size) * np.pi / 4
    )
    y, x = np.mgrid[:8, :4]
    a = angle[..., None, None]
    phase = rng.uniform(0, 2 * np.pi, (self.size, 2, 1, 1))
    halves = np.sin(1.6 * (np.cos(a) * x + np.sin(a) * y) + phase)
    picture = np.concatenate([halves[:, 0], halves[:, 1]], axis=-1)
    picture = picture + 0.4 * rng.normal(size=picture.shape)
    return {"picture": picture[..., None].astype(np.float32), "label": same.astype(np.float32)}


def task(name, model):
  """Makes the task of one arm."""

  def nats(variables, batch):
    logits = model.apply(variables, batch["picture"])
    return optax.sigmoid_binary_cross_entropy(logits, batch["label"])

  def sums(variables, batch):
    return {"nats": jnp.sum(nats(variables, batch)), "rows": jnp.float32(batch["label"].size)}

  return train.Task(
    name=name,
    init=lambda key: model.init(key, jnp.zeros((1, 8, 8, 1))),
    loss=lambda variables, batch, key: train.Loss(jnp.sum(nats(variables, batch))),
    weight=lambda batch: jnp.float32(batch["label"].size),
    train=Pictures,
    val=[Pictures(10**6, 256)[s] for s in range(4)],
    evaluate=sums,
    summarise=lambda sums: {"val/loss": sums["nats"] / sums["rows"]},
  )


def main(argv=None):
  """Trains all arms and prints the comparison."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--steps", type=int, default=800)
  parser.add_argument("--seeds", type=int, default=8)
  parser.add_argument("--streams", type=int, default=4)
  parser.add_argument("--width", type=int, default=16)
  parser.add_argument("--out", default=None, help="folder of the runs; a new one by default")
  args = parser.parse_args(argv)
  connection = hc.HyperConnection(num_streams=args.streams, parent=None)
  swin = functools.partial(Swin, width=args.width)
  arms = {"residual": task("residual", swin(hc.Residual(parent=None)))}
  for crossing in CROSSINGS:
    arms[crossing] = task(crossing, swin(connection, crossing))
  each = max(1, args.steps // 4)
  settings = train.Settings(
    num_steps=args.steps, log_every=each, eval_every=each, checkpoint_every=each
  )
  out = args.out or tempfile.mkdtemp(prefix="stages-")
  optimizer = optax.adamw(2e-3, mask=hc.decay_mask)
  found = ablate.compare_tasks(arms, optimizer, settings, out, seeds=range(args.seeds))
  print(ablate.table(found))


if __name__ == "__main__":
  main()
