"""Settings of the text that a run reads."""

import dataclasses
from typing import Any

from hc_jax import fields


def _named(text: str) -> str | None:
  return None if text else "is empty; give a name"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
  """Settings of the text: the keys of the group `data`.

  Attributes:
    name: "py_stdlib", "text_files", or a TFDS text dataset, such as lm1b and c4/en.
    files: files and folders of "text_files".
    field: name of the field with the text (.jsonl, .parquet, TFDS).
    tokenizer: "bytes", a SentencePiece *.model or a tokenizer.json.
    length: tokens in a window.
    document_mask: whether attention and loss stay inside a document.
    val_fraction: share of documents for validation, if the data has no validation split.
    dir: folder of prepared data; "" is $HC_JAX_DATA or ~/.cache/hc_jax.
    workers: number of threads that read batches ahead; 0 reads them on demand.

  Raises:
    UserError: a value is out of range or malformed.
  """

  name: str = fields.field("py_stdlib", check=_named)
  files: tuple[str, ...] = ()
  field: str = fields.field("text", check=_named)
  tokenizer: str = fields.field("bytes", check=_named)
  length: int = fields.field(1024, least=1)
  document_mask: bool = False
  val_fraction: float = fields.field(0.02, above=0, below=1)
  dir: str = ""
  workers: int = fields.field(2, least=0, most=1024)

  def __post_init__(self) -> None:
    fields.check_fields(self)


def check_settings(**values: Any) -> None:
  """Checks values by the declarations of `DataSettings` with the same names.

  Raises:
    UserError: a value is out of range or malformed.
  """
  fields.check(values, fields.fields_of(DataSettings))
