"""`hc-jax params CONFIG`: counts parameters and lists their weight decay; allocates none."""

import argparse
from collections.abc import Sequence

HELP = "Counts the parameters of a config and lists which ones decay, or draws the model."


def flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "config", help="a file, or a name of `hc-jax configs`; overrides --config.a.b=value may follow"
  )
  parser.add_argument(
    "--diagram", action="store_true", help="draw the model, with the parameters of each part"
  )


def run_config(args: argparse.Namespace, overrides: Sequence[str]) -> None:
  import jax
  import jax.numpy as jnp

  from hc_jax import data, models
  from hc_jax.config import load_config
  from hc_jax.config_keys import arguments
  from hc_jax.errors import named
  from hc_jax.param_table import param_lines
  from hc_jax.params import named_leaves
  from hc_jax.step.groups import check_matches, group_of

  config = load_config(args.config, overrides)
  vocab_size = config.model.vocab_size
  if vocab_size is None:
    with named(arguments()):
      vocab_size = data.load_tokenizer(config.data.tokenizer).vocab_size
  model = models.make_model(config.model, vocab_size)
  if args.diagram:
    print("\n".join(models.diagram_lines(model)))
    return
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  tree = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
  print("\n".join(param_lines(tree)))
  groups = config.optim.groups
  if groups:
    check_matches(tree, groups)
  for i, (pattern, own) in enumerate(groups):
    held = sum(leaf.size for path, leaf in named_leaves(tree) if group_of(path, groups) == i)
    fields = ", ".join(f"{name} {value:g}" for name, value in own.items())
    print(f"{'group ' + pattern:<18}{held:>15,}  ({fields or 'no settings of its own'})")
