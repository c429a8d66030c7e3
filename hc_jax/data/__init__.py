"""Text as batches of tokens: TFDS sources, tokenizers, prepared token arrays, windows."""

from hc_jax.data.batches import EvalBatches, eval_batches, iterate, train_batches
from hc_jax.data.store import data_path
from hc_jax.data.text import TextData, find_text, load_text
from hc_jax.data.tokenizers import Tokenizer, load_tokenizer
from hc_jax.data.tokens import TokenArray
from hc_jax.data.whole import read_files
from hc_jax.data.windows import Windows

__all__ = [
  "EvalBatches",
  "TextData",
  "TokenArray",
  "Tokenizer",
  "Windows",
  "data_path",
  "eval_batches",
  "find_text",
  "iterate",
  "load_text",
  "load_tokenizer",
  "read_files",
  "train_batches",
]
