"""The text to look at a run with: from the caller's folders and files, never from the run's own.

A run's config names data by paths and by TFDS data sets. If a stranger wrote it, reading those
would copy files of the user's, or let a data set's description import a module. So only the
fingerprint of the prepared text counts, and the one source that every Python carries.
"""

from collections.abc import Callable, Sequence

from hc_jax import data
from hc_jax.errors import UserError
from hc_jax.runs.tokenizer import tokenizer_copy
from hc_jax.train.run import Run

BUILT_IN = "py_stdlib"


def run_tokens(
  run: Run,
  *,
  files: Sequence[str] = (),
  field: str | None = None,
  split: str | None = None,
  data_dir: str = "",
  log: Callable[[str], None] = print,
) -> tuple[data.TokenArray, str]:
  """Returns the tokens to look at a run with, and a few words that name them.

  Args:
    run: of `load_run`.
    files: files or folders to read instead of the run's text.
    field: of a record in them that holds the text; None is the run's `data.field`.
    split: of the run's own text, "val" (also None) or "train".
    data_dir: the folder in which the run's text was prepared; "" is $HC_JAX_DATA or
      ~/.cache/hc_jax.
    log: gets lines about the text.

  Raises:
    UserError: the run's text is not prepared there, or `files` cannot be read.
  """
  if files:
    if split is not None:
      raise UserError(f"`split={split}` is of the run's own text, and `files` another; give one")
    found = data.read_files(files, run.tokenizer, field=field or run.config.data.field, log=log)
    return found, ", ".join(files)
  if split not in (None, "val", "train"):
    raise UserError(f"`split={split!r}` is unknown; there are val and train")
  text, split = _text(run, data_dir, log), split or "val"
  return getattr(text, split), f"the {split} split of {run.config.data.name}"


def _text(run: Run, data_dir: str, log: Callable[[str], None]) -> data.TextData:
  """Returns the text that the run was trained on, by its fingerprint."""
  name, trained_on = run.config.data.name, run.card["data"]["fingerprint"]
  found = data.find_text(trained_on, run.tokenizer, data_dir, log)
  if found is not None:
    return found
  if name != BUILT_IN:
    where = data.data_path(data_dir)
    raise UserError(
      f"the text of {run.workdir} ({name}, fingerprint {trained_on[:12]}) is not prepared in "
      f"{where}; give the folder in which it was with `data_dir`, or other text with `files`"
    )
  text = data.load_text(
    BUILT_IN,
    tokenizer=tokenizer_copy(run.workdir, run.config.data.tokenizer),
    data_dir=data_dir,
    val_fraction=run.config.data.val_fraction,
    log=log,
  )
  if text.fingerprint != trained_on:
    raise UserError(
      f"the text of {name}, or its tokenizer, is not that of {run.workdir} (fingerprint "
      f"{trained_on[:12]} there, {text.fingerprint[:12]} here), so its validation split is another;"
      " give the text with `files`"
    )
  return text
