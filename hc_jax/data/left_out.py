"""Records that are left out since they hold no text: counted by reason, and said."""

import collections
from collections.abc import Iterable

NO_TEXT = "without text in field"
NOT_UNICODE = "with text that is not valid UTF-8 in field"


class LeftOut:
  """Counts records, and those that are left out.

  Attributes:
    field: the field of a record that holds its text.
    num_records: how many were read, those left out included.
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
    """Counts records as left out.

    Args:
      reason: NO_TEXT or NOT_UNICODE.
      where: the place of the first record.
      other_fields: other fields, which do hold text.
      num_records: how many records.
    """
    if num_records:
      self._counts[reason] += num_records
      self._first.setdefault(reason, where)
      if len(self._other_fields) < 8:  # enough for a message
        self._other_fields.update(dict.fromkeys(other_fields))

  def note(self) -> str:
    """Returns what was left out, in words; "" if nothing was."""
    parts = [
      f"{count:,} {reason} {self.field!r} (first: {self._first[reason]})"
      for reason, count in self._counts.items()
    ]
    if not parts:
      return ""
    return f"left out {self._counts.total():,} of {self.num_records:,} records: " + ", ".join(parts)

  def remedy(self) -> str:
    """Returns what to do where no record is left."""
    names = sorted(self._other_fields)[:8]
    if not names:
      return "no field holds text; give other `files`"
    return f"fields that hold text: {', '.join(names)}; set `field`"
