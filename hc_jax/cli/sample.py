"""`hc-jax sample RUN`: generates text with a KV cache, and prints it token by token."""

import argparse
import sys
import time

from hc_jax.errors import UserError

HELP = "Generates text with a trained model."


def flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("run", help="the workdir of a run")
  parser.add_argument("--prompt", default="", help="text to continue")
  parser.add_argument("--tokens", type=int, default=200, help="number of tokens to write (200)")
  parser.add_argument("--samples", type=int, default=1, help="number of texts to write (1)")
  parser.add_argument(
    "--temperature", type=float, default=0.8, help="0 takes the most likely token (0.8)"
  )
  parser.add_argument(
    "--top-k", type=int, default=0, help="draw from the k most likely tokens; 0: from all (0)"
  )
  parser.add_argument(
    "--top-p",
    type=float,
    default=1.0,
    help="draw from the most likely tokens of total probability p; 1: from all (1)",
  )
  parser.add_argument("--seed", type=int, default=0, help="seed of the draws (0)")
  parser.add_argument("--step", type=int, default=None, help="step of the checkpoint (the newest)")


def run(args: argparse.Namespace) -> None:
  from hc_jax import train
  from hc_jax.sample import continue_text

  if args.samples < 1:
    raise UserError(f"--samples={args.samples} must be at least 1")
  run = train.load_run(args.run, args.step)
  print(f"{run.workdir}, step {run.step}", file=sys.stderr)
  tokenizer = run.tokenizer
  steps = continue_text(
    run.model,
    run.params,
    tokenizer,
    args.prompt,
    args.tokens,
    samples=args.samples,
    seed=args.seed,
    temperature=args.temperature,
    top_k=args.top_k,
    top_p=args.top_p,
  )
  texts, times = [[]] * args.samples, []
  shown = args.prompt
  if args.samples == 1:
    print(shown, end="", flush=True)
  for texts in steps:
    times.append(time.perf_counter())
    if args.samples == 1:
      shown = _print_more(shown, tokenizer.extend(args.prompt, texts[0]))
  for i, text in enumerate(texts if args.samples > 1 else ()):
    print(f"--- {i + 1}\n{tokenizer.extend(args.prompt, text)}")
  print()
  if len(times) > 2:
    rate = args.samples * (len(times) - 2) / (times[-1] - times[1])
    print(f"{rate:.1f} tokens/s, without compilation", file=sys.stderr)


def _print_more(shown: str, text: str) -> str:
  """Prints the part of `text` after `shown`, except an incomplete character at the end."""
  whole = text.rstrip("\ufffd")
  if whole.startswith(shown):
    print(whole[len(shown) :], end="", flush=True)
    return whole
  return shown
