"""Text for evaluating and analysing a run. It comes from the caller, never from the run's config.

A run's config names data by paths and TFDS data sets. If a stranger wrote the config, reading
them could copy the user's files, or import a module that a data set names. So the text of a run is
found only by the fingerprint of prepared text, or made anew from Python's standard library.
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
  """Returns tokens to evaluate or analyse a run with, and a short description of their text.

  Args:
    run: an opened run, from `load_run`.
    files: files or folders to read instead of the run's text.
    field: name of the text field in records of `files`; None is the run's `data.field`.
    split: split of the run's own text: "val" (also None) or "train".
    data_dir: the folder in which the run's text was prepared; "" is $HC_JAX_DATA or
      ~/.cache/hc_jax.
    log: called with lines about the text.

  Raises:
    UserError: the run's text is not prepared in `data_dir`, `files` cannot be read, or `split` is
      unknown or given together with `files`.
  """
  if files:
    if split is not None:
      raise UserError(f"`split={split}` splits the run's own text; leave it or `files` out")
    found = data.read_files(files, run.tokenizer, field=field or run.config.data.field, log=log)
    return found, ", ".join(files)
  if split not in (None, "val", "train"):
    raise UserError(f"`split={split!r}` is unknown; there are val and train")
  text, split = _text(run, data_dir, log), split or "val"
  return getattr(text, split), f"the {split} split of {run.config.data.name}"


def _text(run: Run, data_dir: str, log: Callable[[str], None]) -> data.TextData:
  """Returns the text that the run was trained on, found by its fingerprint."""
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
