"""`hc-jax <command>`: thin; every command is a function elsewhere."""

import argparse
import functools
import os
import sys
import time
from collections.abc import Sequence

from hc_jax.errors import UserError
from hc_jax.user_modules import add_flag, import_modules

OVERRIDE = "--config."
ANALYZED_TOKENS = 2048  # all streams of all sites are in memory at once


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command; returns its exit code (2: something for the user to mend)."""
  argv = list(sys.argv[1:] if argv is None else argv)
  parser = _parser()
  args, rest = parser.parse_known_args(argv)
  takes_overrides = args.command == "params"
  unknown = [a for a in rest if not (takes_overrides and a.startswith(OVERRIDE))]
  if unknown:
    parser.error(f"{args.command} does not take {unknown[0]}; see hc-jax {args.command} --help")
  try:
    import_modules(args.modules)
    return COMMANDS[args.command](args, rest) or 0
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("\ninterrupted", file=sys.stderr)
    return 130
  except BrokenPipeError:  # `hc-jax ... | head` closed our output
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog="hc-jax", description="Tools of hc_jax.")
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

  def add(name: str, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    add_flag(command)
    return command

  command = add("params", "Counts the parameters of a config and lists what decays.")
  command.add_argument("config", help="a config file; overrides --config.a.b=value may follow")

  command = add("sample", "Lets a trained model write.")
  command.add_argument("run", help="the workdir of a run")
  command.add_argument("--prompt", default="", help="text to continue")
  command.add_argument("--tokens", type=int, default=200, help="how many to write (200)")
  command.add_argument("--samples", type=int, default=1, help="how many texts (1)")
  command.add_argument("--temperature", type=float, default=0.8, help="0: most likely (0.8)")
  command.add_argument("--top-k", type=int, default=0, help="of the k most likely; 0: all (0)")
  command.add_argument("--top-p", type=float, default=1.0, help="of the most likely p; 1: all (1)")
  command.add_argument("--seed", type=int, default=0, help="decides what is drawn (0)")
  command.add_argument("--step", type=int, default=None, help="of the checkpoint (the newest)")

  command = add("analyze", "Draws what a run learned: loss, connections, what layers see, gains.")
  command.add_argument("run", help="the workdir of a run")
  command.add_argument("--step", type=int, default=None, help="of the checkpoint (the newest)")
  command.add_argument("--out", default=None, help="folder for the pictures (RUN/analysis)")
  command.add_argument(
    "--formats", default="png,pdf,svg", help="of the pictures; each takes its time (png,pdf,svg)"
  )

  command = add("eval", "Loss, perplexity and bits per byte of a run, on its own or any text.")
  command.add_argument("run", help="the workdir of a run")
  command.add_argument(
    "--files",
    action="append",
    default=[],
    metavar="PATH",
    help="a file or folder of text to read; may be repeated (the run's own validation text)",
  )
  command.add_argument("--field", default=None, help="of a record in them (the run's data.field)")
  command.add_argument("--split", default=None, help="of the run's own text: val or train (val)")
  command.add_argument("--step", type=_step, default=None, help="of the checkpoint (the newest)")
  command.add_argument(
    "--batches", type=int, default=None, help="at most, of the run's train.batch_size (all)"
  )
  command.add_argument(
    "--batch-size", type=int, default=None, help="windows at a time (the trainer's)"
  )

  command = add("inspect", "What lies in a run: checkpoints, card, parameters, newest metrics.")
  command.add_argument("run", help="the workdir of a run")
  command.add_argument("--step", type=int, default=None, help="of the checkpoint (the newest)")

  command = add(
    "selftest", "Runs into the twenty traps of hyper-connection code; exit code 1 if one bites."
  )
  command.add_argument(
    "--mutants",
    action="store_true",
    help="make mistakes on purpose instead, and say which test finds each",
  )
  return parser


def _step(text: str) -> int | str:
  return text if text == "best" else int(text)


def params(args: argparse.Namespace, overrides: Sequence[str]) -> None:
  """`hc-jax params CONFIG`: counts and the decay table; no weight is allocated."""
  import jax
  import jax.numpy as jnp

  from hc_jax import data, models
  from hc_jax.config import load_config
  from hc_jax.params import decays, named_leaves, param_count

  config = load_config(args.config, overrides)
  vocab_size = config.model.vocab_size
  if vocab_size is None:
    vocab_size = data.load_tokenizer(config.data.tokenizer).vocab_size
  model = models.make_model(config.model, vocab_size)
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  tree = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
  leaves = dict(named_leaves(tree))
  width = max(map(len, leaves))
  print(f"{'parameter':<{width}}  {'shape':<22}{'decay':<7}{'count':>15}")
  for path, leaf in leaves.items():
    shape = "x".join(map(str, leaf.shape))
    print(f"{path:<{width}}  {shape:<22}{'yes' if decays(path) else 'no':<7}{leaf.size:>15,}")
  count = param_count(tree)
  print(f"\n{'total':<18}{count.total:>15,}")
  print(f"{'embedding':<18}{count.embedding:>15,}")
  share = 100 * count.connection / count.total
  print(f"{'hyper-connection':<18}{count.connection:>15,}  ({share:.4f} %)")
  decayed = sum(leaf.size for path, leaf in leaves.items() if decays(path))
  print(f"{'with weight decay':<18}{decayed:>15,}")


def sample(args: argparse.Namespace, rest: Sequence[str]) -> None:
  """`hc-jax sample RUN`: text with a KV cache, printed as it is written."""
  del rest
  import jax
  import numpy as np

  from hc_jax import train
  from hc_jax.sample import generate

  if args.samples < 1:
    raise UserError(f"--samples={args.samples} must be at least 1")
  run = train.load_run(args.run, args.step)
  print(f"{run.workdir}, step {run.step}", file=sys.stderr)
  tokenizer = run.tokenizer
  prompt = np.concatenate([[tokenizer.bos_id], tokenizer.encode(args.prompt)]).astype(np.int32)
  steps = generate(
    run.model,
    run.params,
    np.tile(prompt, (args.samples, 1)),
    args.tokens,
    key=jax.random.key(args.seed),
    temperature=args.temperature,
    top_k=args.top_k,
    top_p=args.top_p,
  )
  texts, times = [[] for _ in range(args.samples)], []
  shown = args.prompt
  if args.samples == 1:
    print(shown, end="", flush=True)
  for tokens in steps:
    times.append(time.perf_counter())
    for text, token in zip(texts, tokens.tolist(), strict=True):
      if tokenizer.bos_id not in text:  # the next document is another text
        text.append(token)
    if args.samples == 1:
      shown = _print_more(shown, args.prompt + tokenizer.decode(_visible(texts[0], tokenizer)))
    if all(tokenizer.bos_id in text for text in texts):
      break
  for i, text in enumerate(texts if args.samples > 1 else ()):
    print(f"--- {i + 1}\n{args.prompt}{tokenizer.decode(_visible(text, tokenizer))}")
  print()
  if len(times) > 2:
    rate = args.samples * (len(times) - 2) / (times[-1] - times[1])
    print(f"{rate:.1f} tokens/s, compilation apart", file=sys.stderr)


def _visible(tokens: list[int], tokenizer) -> list[int]:
  return [token for token in tokens if token != tokenizer.bos_id]


def _print_more(shown: str, text: str) -> str:
  """Prints what `text` has beyond `shown`; half a character waits for its other half."""
  whole = text.rstrip("\ufffd")
  if whole.startswith(shown):
    print(whole[len(shown) :], end="", flush=True)
    return whole
  return shown


def analyze(args: argparse.Namespace, rest: Sequence[str]) -> None:
  """`hc-jax analyze RUN`: figures, their numbers, and a table of every site."""
  del rest
  from pathlib import Path

  from hc_jax import data, train
  from hc_jax.analysis import collect_sites, report

  formats = args.formats.split(",")
  if not set(formats) <= {"png", "pdf", "svg"}:
    raise UserError(f"--formats={args.formats} is not of png, pdf and svg, with commas between")
  run = train.load_run(args.run, args.step)
  out = Path(args.out or Path(run.workdir) / "analysis")
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot write to {out}: {error.strerror}; give another --out") from error
  model = run.config.model
  name = "hybrid" if model.get("layers") else model.connection.name
  title = f"{Path(run.workdir).name}: {{}}, step {run.step:,}"
  metrics = train.read_metrics(run.workdir)
  if model.get("block") == "dual":
    report.write_part(
      report.loss_part(metrics, title.replace("{}", "ResiDual")), out, formats=formats
    )
    print("no other figure: ResiDual (model.block='dual') has no connections")
    return
  config = run.config.data
  text = train.open_text(config)
  rows = max(1, min(8, ANALYZED_TOKENS // config.length))
  batch = data.eval_batches(text.val, length=config.length, batch_size=rows, num_batches=1)[0]
  sites = collect_sites(run.model, run.params, batch["inputs"])
  title = title.replace("{}", f"{name}, {report.describe(sites)}")
  report.write_part(report.loss_part(metrics, title), out, formats=formats)
  report.write_report(sites, out, title, formats=formats)


def evaluate(args: argparse.Namespace, rest: Sequence[str]) -> None:
  """`hc-jax eval RUN`: how well a run predicts its validation text, or any other."""
  del rest
  from hc_jax import train

  run = train.load_run(args.run, args.step)
  print(f"{run.workdir}, step {run.step}", file=sys.stderr)
  found = train.evaluate_run(
    run,
    files=args.files,
    field=args.field,
    split=args.split,
    batches=args.batches,
    batch_size=args.batch_size,
  )
  print(f"{found.text}: {found.tokens:,} tokens of {found.documents:,} documents")
  print(f"{'loss':<15}{found.loss:.6f} nats per token")
  print(f"{'perplexity':<15}{found.perplexity:.6g}")
  bits = "no token stands for text" if found.bits_per_byte is None else f"{found.bits_per_byte:.6f}"
  print(f"{'bits per byte':<15}{bits}")


def inspect(args: argparse.Namespace, rest: Sequence[str]) -> int:
  """`hc-jax inspect RUN`: what lies there; exit code 1 if any of it is damaged."""
  del rest
  import jax

  jax.config.update("jax_platforms", "cpu")  # it computes nothing: leave accelerators to others
  from hc_jax.train.contents import report

  return 1 if report(args.run, args.step) else 0


def selftest(args: argparse.Namespace, rest: Sequence[str]) -> int:
  """`hc-jax selftest`: is the wiring right, on this machine, as installed."""
  del rest
  log = functools.partial(print, flush=True)
  if args.mutants:
    # One mistake shows on a mesh of eight devices alone. JAX reads this at its first computation.
    flag = "--xla_force_host_platform_device_count"
    if flag not in os.environ.get("XLA_FLAGS", ""):
      os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}=8".strip()
    from hc_jax.testing.mutation import mutation_run

    return mutation_run(log=log)
  from hc_jax.testing.selftest import selftest

  return selftest(log=log)


COMMANDS = {
  "params": params,
  "sample": sample,
  "analyze": analyze,
  "eval": evaluate,
  "inspect": inspect,
  "selftest": selftest,
}


if __name__ == "__main__":
  sys.exit(main())
