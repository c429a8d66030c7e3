"""DHC against SHC: what each adds in parameters, and a short training of both on the same batches.

Prints a table of counts, then losses of one seed: python dhc_vs_shc.py [--steps=N] [--seed=N]
"""

import argparse
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import hc_jax as hc

VOCAB, LENGTH, WIDTH, LAYERS, N = 17, 16, 64, 2, 4
HC = functools.partial(hc.HyperConnection, num_streams=N)
ARMS = {
  "residual": hc.Residual,
  "SHC": functools.partial(HC, dynamic=False),  # the maps are parameters
  "DHC": functools.partial(HC, dynamic=True),  # plus a part that is made of each token
}
# Parameters of a site, by the paper.
FORMULAS = {
  "residual": ("0", 0),
  "SHC": ("n(n+2)", N * (N + 2)),
  "DHC": ("d(n+2) + n(n+2) + 2", WIDTH * (N + 2) + N * (N + 2) + 2),
}


def model_of(connection):
  """Returns a language model whose sites all have that connection."""
  return hc.models.TransformerLM(
    vocab_size=VOCAB, d_model=WIDTH, num_layers=LAYERS, num_heads=4, connection=connection
  )


def batch_of(key, rows=64):
  """Returns rows of `a, a + b, a + 2b, ...` modulo VOCAB, one token more than LENGTH."""
  a, b = jax.random.randint(key, (2, rows, 1), 0, VOCAB)
  return (a + b * jnp.arange(LENGTH + 1)) % VOCAB


def shapes_of(connection):
  """Returns the parameters of a model by shape, without allocating one."""
  tokens = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
  shapes = jax.eval_shape(model_of(connection).init, jax.random.key(0), tokens)["params"]
  return nn.unbox(shapes)  # without the names of axes that the model's parameters carry


def compare_parameters():
  """Prints and returns the counts of every arm: (total, connection, decayed of connection)."""
  print(f"d = {WIDTH}, n = {N}, {2 * LAYERS} sites")
  print(f"{'arm':<10}{'total':>9}{'connections':>13}{'share':>9}{'decayed':>9}  parameters a site")
  counts = {}
  for arm, connection in ARMS.items():
    shapes = shapes_of(connection)
    total = hc.param_count(shapes)
    # Keeps only parameters that decay; weight decay leaves static parts alone.
    decays = jax.tree.map(lambda leaf, on: leaf if on else None, shapes, hc.decay_mask(shapes))
    decayed = hc.param_count(decays).connection
    counts[arm] = (total.total, total.connection, decayed)
    formula, value = FORMULAS[arm]
    share = f"{total.connection / total.total:.3%}"
    print(
      f"{arm:<10}{total.total:>9,}{total.connection:>13,}{share:>9}{decayed:>9,}  "
      f"{formula} = {value}"
    )
  return counts


def train(connection, steps, seed):
  """Returns the mean loss of the last tenth of the steps; batches depend on the seed alone."""
  model, key = model_of(connection), jax.random.key(seed)
  params = model.init(key, batch_of(key)[:, :-1])["params"]
  optimizer = optax.adamw(3e-3, weight_decay=0.1, mask=hc.decay_mask)
  state = optimizer.init(params)

  @jax.jit
  def train_step(params, state, tokens):
    def loss_of(params):
      logits = model.apply({"params": params}, tokens[:, :-1])
      return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  losses = []
  for step in range(steps):
    params, state, loss = train_step(params, state, batch_of(jax.random.fold_in(key, step)))
    losses.append(loss)
  return float(jnp.mean(jnp.stack(losses[-max(1, steps // 10) :])))


def main(steps=200, seed=0):
  """Prints both parts; returns the counts and the losses by arm."""
  counts = compare_parameters()
  print(f"\nmean loss of the last tenth of {steps} steps, seed {seed}")
  losses = {}
  for arm, connection in ARMS.items():
    losses[arm] = train(connection, steps, seed)
    print(f"{arm:<10}{losses[arm]:.4f}")
  print("\nThis is one seed of a toy task: the order of the arms proves nothing.")
  print("`hc-jax ablate ablations/static_vs_dynamic` compares them over seeds, with intervals.")
  return counts, losses


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--seed", type=int, default=0)
  main(**vars(parser.parse_args()))
