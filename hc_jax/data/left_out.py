"""Counts of records that are skipped because they hold no text, by reason, for the user."""

import collections
from collections.abc import Iterable

NO_TEXT = "without text in field"
NOT_UNICODE = "with text that is not valid UTF-8 in field"


class LeftOut:
  """Counter of records and of skipped records.

  Attributes:
    field: name of the field with a record's text.
    num_records: number of records read, including skipped ones.
  """

  def __init__(self, field: str) -> None:
    self.field = field
    self.num_records = 0
    self._counts: collections.Counter[str] = collections.Counter()
    self._first: dict[str, str] = {}
    self._other_fields: dict[str, None] = {}

  def add(
    self, reason: str, where: str, other_fields: Iterable[str] = (), num_records: int = 1
  ) -> None:
    """Counts records as skipped.

    Args:
      reason: NO_TEXT or NOT_UNICODE.
      where: place of the first record (file and line or row).
      other_fields: names of other fields that do hold text.
      num_records: number of skipped records.
    """
    if num_records:
      self._counts[reason] += num_records
      self._first.setdefault(reason, where)
      if len(self._other_fields) < 8:  # a message names no more
        self._other_fields.update(dict.fromkeys(other_fields))

  def note(self) -> str:
    """Returns a description of the skipped records; "" if there are none."""
    parts = [
      f"{count:,} {reason} {self.field!r} (first: {self._first[reason]})"
      for reason, count in self._counts.items()
    ]
    if not parts:
      return ""
    return f"left out {self._counts.total():,} of {self.num_records:,} records: " + ", ".join(parts)

  def remedy(self) -> str:
    """Returns advice for the case that all records were skipped."""
    names = sorted(self._other_fields)[:8]
    if not names:
      return "no field holds text; give other `files`"
    return f"fields that hold text: {', '.join(names)}; set `field`"
