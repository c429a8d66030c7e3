"""The copy of the tokenizer's file that a run keeps."""

import os

from hc_jax import data, folders
from hc_jax.durable import write_atomically
from hc_jax.errors import UserError

SUFFIXES = (".model", ".json")  # kinds of files that a run copies
LARGEST = 256 << 20  # bytes


def tokenizer_copy(workdir: str, spec: str) -> str:
  """Returns the path of a run's copy of its tokenizer; "bytes" for bytes, which need no file.

  Raises:
    UserError: `spec` is neither "bytes" nor the path of a tokenizer's file.
  """
  if spec == "bytes":
    return spec
  if (suffix := os.path.splitext(spec)[1]) not in SUFFIXES:
    raise UserError(
      f"`tokenizer={spec!r}` of {workdir} is neither 'bytes' nor a file *.model or *.json"
    )
  return os.path.join(workdir, f"tokenizer{suffix}")


def open_tokenizer(workdir: str, spec: str) -> data.Tokenizer:
  """Opens a run's copy of its tokenizer; uses only the file ending of `spec`.

  Raises:
    UserError: the copy is missing, not a plain file, or larger than `LARGEST` bytes.
  """
  path = tokenizer_copy(workdir, spec)
  if path != spec and os.path.lexists(path):
    folders.check_plain(workdir, os.path.basename(path))
    if os.lstat(path).st_size > LARGEST:
      raise UserError(f"{path} has more than {LARGEST:,} bytes: this is not a tokenizer")
  return data.load_tokenizer(path)


def keep_tokenizer(workdir: str, spec: str) -> None:
  """Copies the tokenizer's file to the run, if the run has no copy yet.

  Raises:
    OSError: the file cannot be read or written.
  """
  copy = tokenizer_copy(workdir, spec)
  if copy != spec and not os.path.lexists(copy):
    with open(os.path.expanduser(spec), "rb") as file:
      write_atomically(copy, file.read())
