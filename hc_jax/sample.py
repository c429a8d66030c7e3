"""Text from a language model, token by token, with a KV cache."""

import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hc_jax.errors import UserError
from hc_jax.fields import LARGEST_SEED, Field, problems

SMALLEST_PREFILL = 16
_TAKES = {
  "samples": Field(kind=int, least=1),
  "seed": Field(kind=int, least=0, most=LARGEST_SEED),
  "temperature": Field(kind=float, least=0),
  "top_k": Field(kind=int, least=0),
  "top_p": Field(kind=float, above=0, most=1),
}


def continue_text(
  model: nn.Module,
  params: Any,
  tokenizer: Any,
  prompt: str,
  num_tokens: int,
  *,
  samples: int = 1,
  seed: int = 0,
  **settings: Any,
) -> Iterator[list[list[int]]]:
  """Continues a text several times, and yields the tokens so far after every new token.

  A continuation ends where the next document begins. The iterator ends with the last continuation.

  Args:
    model: a `TransformerLM`.
    params: parameters of the model.
    tokenizer: a tokenizer with `encode` and `bos_id`.
    prompt: text to continue, taken as the beginning of a document.
    num_tokens: largest number of new tokens.
    samples: number of continuations.
    seed: seed of the random draws.
    **settings: `temperature`, `top_k` and `top_p` of `generate`.

  Yields:
    The tokens of each continuation, without the prompt's; the same lists, longer each time.

  Raises:
    UserError: if `samples` is below 1 or the seed is out of range; in the cases of `generate`.
  """
  if wrong := next(problems({"samples": samples, "seed": seed}, _TAKES), None):
    raise UserError(wrong)
  ids = np.concatenate([[tokenizer.bos_id], tokenizer.encode(prompt)]).astype(np.int32)
  prompts = np.tile(ids, (samples, 1))
  key = jax.random.key(seed)
  texts: list[list[int]] = [[] for _ in range(samples)]
  ended: set[int] = set()
  for tokens in generate(model, params, prompts, num_tokens, key=key, **settings):
    for index, token in enumerate(tokens.tolist()):
      if token == tokenizer.bos_id:
        ended.add(index)
      elif index not in ended:
        texts[index].append(token)
    yield texts
    if len(ended) == samples:
      return


def generate(
  model: nn.Module,
  params: Any,
  prompt: np.ndarray,
  num_tokens: int,
  *,
  key: jax.Array,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
) -> Iterator[np.ndarray]:
  """Continues prompts, and yields the next token of each as soon as it is known.

  Two programs are compiled for any number of tokens: one for the prompt, padded to a power of two,
  and one for a single token.

  Args:
    model: a `TransformerLM`.
    params: parameters of the model.
    prompt: int32 `[B, P]`, P >= 1; one row per sample.
    num_tokens: number of tokens to yield.
    key: random key of the draws.
    temperature: divides the logits; 0 takes the most likely token.
    top_k: draw from the k most likely tokens; 0 draws from all.
    top_p: draw from the fewest most likely tokens whose probabilities reach p; 1 draws from all.

  Yields:
    int32 `[B]`, `num_tokens` times.

  Raises:
    UserError: if the prompt is empty, if there are more tokens than the model has positions, or if
      a setting is out of its range.
  """
  batch, length = prompt.shape
  _check(model, length, num_tokens, temperature, top_k, top_p)
  draw = functools.partial(_draw, temperature=temperature, top_k=top_k, top_p=top_p)
  prefill, decode = _programs(model)
  padded = min(max(SMALLEST_PREFILL, 1 << (length - 1).bit_length()), model.max_length)
  tokens = np.zeros((batch, padded), np.int32)
  tokens[:, :length] = prompt
  logits, cache = prefill(params, tokens, length)
  for step in range(num_tokens):
    token = draw(jax.random.fold_in(key, step), logits)
    yield np.asarray(token)
    if step + 1 < num_tokens:
      logits, cache = decode(params, cache, token)


@functools.lru_cache(maxsize=4)
def _programs(model: nn.Module) -> tuple[Any, Any]:
  """Prefill and decode, jitted once per model."""

  def prefill(params: Any, tokens: jax.Array, length: jax.Array) -> tuple[jax.Array, Any]:
    logits, state = model.apply({"params": params}, tokens, decode=True, mutable=["cache"])
    # What the padding left in the cache lies behind the cursor, and is written over unseen.
    cache = {**state["cache"], "cursor": {"index": jnp.asarray(length, jnp.int32)}}
    return jnp.take(logits, length - 1, axis=1), cache

  def decode(params: Any, cache: Any, token: jax.Array) -> tuple[jax.Array, Any]:
    logits, state = model.apply(
      {"params": params, "cache": cache}, token[:, None], decode=True, mutable=["cache"]
    )
    return logits[:, 0], state["cache"]

  return jax.jit(prefill), jax.jit(decode, donate_argnums=1)


@functools.partial(jax.jit, static_argnames=("temperature", "top_k", "top_p"))
def _draw(
  key: jax.Array, logits: jax.Array, *, temperature: float, top_k: int, top_p: float
) -> jax.Array:
  """float32 logits `[B, V]` -> int32 `[B]`."""
  if temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  logits = logits / temperature
  if top_k:
    kth = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
    logits = jnp.where(logits < kth, -jnp.inf, logits)
  if top_p < 1:
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities  # of all likelier tokens
    last = jnp.sum(before < top_p, axis=-1, keepdims=True) - 1
    logits = jnp.where(logits < jnp.take_along_axis(ordered, last, axis=-1), -jnp.inf, logits)
  return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)


def _check(
  model: nn.Module, length: int, num_tokens: int, temperature: float, top_k: int, top_p: float
) -> None:
  if length < 1:
    raise UserError("the prompt is empty; give at least one token, such as the tokenizer's bos_id")
  if num_tokens < 0:
    raise UserError(f"num_tokens={num_tokens} must be at least 0")
  if length + num_tokens > model.max_length:
    raise UserError(
      f"{length} tokens of prompt and {num_tokens} more exceed the model's "
      f"max_length={model.max_length}; ask for at most {max(model.max_length - length, 0)}"
    )
  given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
  if wrong := next(problems(given, _TAKES), None):
    raise UserError(wrong)
