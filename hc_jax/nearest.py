"""The nearest known name, for messages about a name that is unknown."""

import difflib
from collections.abc import Iterable


def nearest(
  word: str, known: Iterable[str], cutoff: float = 0.6, separator: str = ""
) -> str | None:
  """Returns the known name that is most like a word; None if none is much like it.

  Args:
    word: as it was typed.
    known: the names that there are.
    cutoff: how much alike they must be, from 0 to 1.
    separator: of the parts of a name, such as "."; where the whole finds nothing, last parts are
      compared.
  """
  names = list(known)
  if found := difflib.get_close_matches(word, names, n=1, cutoff=cutoff):
    return found[0]
  if not separator:
    return None
  tails = [name.rsplit(separator, 1)[-1] for name in names]
  found = difflib.get_close_matches(word.rsplit(separator, 1)[-1], tails, n=1, cutoff=cutoff)
  return names[tails.index(found[0])] if found else None


def hint(word: str, known: Iterable[str], separator: str = "") -> str:
  """Returns `; did you mean 'name'?` for the end of a message, or nothing."""
  found = nearest(word, known, separator=separator)
  return "" if found is None else f"; did you mean {found!r}?"
