"""Suggestions for an unknown name in messages: the most similar known name."""

import difflib
from collections.abc import Iterable


def nearest(
  word: str, known: Iterable[str], cutoff: float = 0.6, separator: str = ""
) -> str | None:
  """Returns the known name most similar to a word; None if none is similar enough.

  Args:
    word: word that the user typed.
    known: existing names.
    cutoff: smallest similarity, from 0 to 1.
    separator: separator of the parts of a name, such as ".". If no whole name is similar, the last
      parts are compared.
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
  """Returns `; did you mean 'name'?` for the end of a message; "" if no name is similar."""
  found = nearest(word, known, separator=separator)
  return "" if found is None else f"; did you mean {found!r}?"
