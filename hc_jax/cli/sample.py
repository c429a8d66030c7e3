"""`hc-jax sample RUN`: text with a KV cache, printed as it is written."""

import argparse
import sys
import time

from hc_jax.errors import UserError

HELP = "Lets a trained model write."


def flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("run", help="the workdir of a run")
  parser.add_argument("--prompt", default="", help="text to continue")
  parser.add_argument("--tokens", type=int, default=200, help="how many to write (200)")
  parser.add_argument("--samples", type=int, default=1, help="how many texts (1)")
  parser.add_argument("--temperature", type=float, default=0.8, help="0: most likely (0.8)")
  parser.add_argument("--top-k", type=int, default=0, help="of the k most likely; 0: all (0)")
  parser.add_argument("--top-p", type=float, default=1.0, help="of the most likely p; 1: all (1)")
  parser.add_argument("--seed", type=int, default=0, help="decides what is drawn (0)")
  parser.add_argument("--step", type=int, default=None, help="of the checkpoint (the newest)")


def run(args: argparse.Namespace) -> None:
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
      shown = _print_more(shown, _extended(args.prompt, texts[0], tokenizer))
    if all(tokenizer.bos_id in text for text in texts):
      break
  for i, text in enumerate(texts if args.samples > 1 else ()):
    print(f"--- {i + 1}\n{_extended(args.prompt, text, tokenizer)}")
  print()
  if len(times) > 2:
    rate = args.samples * (len(times) - 2) / (times[-1] - times[1])
    print(f"{rate:.1f} tokens/s, compilation apart", file=sys.stderr)


def _extended(prompt: str, tokens: list[int], tokenizer) -> str:
  return tokenizer.extend(prompt, [token for token in tokens if token != tokenizer.bos_id])


def _print_more(shown: str, text: str) -> str:
  """Prints what `text` has beyond `shown`; half a character waits for its other half."""
  whole = text.rstrip("\ufffd")
  if whole.startswith(shown):
    print(whole[len(shown) :], end="", flush=True)
    return whole
  return shown
