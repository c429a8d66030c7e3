"""The nearest known name, for messages about a name that is unknown."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
  """Returns the known name that is most like a word; None if none is much like it.

  Of dotted names (and of paths, "a/b/c") the last parts are compared where the whole finds nothing.

  Args:
    word: as it was typed.
    known: the names that there are.
    cutoff: how much alike they must be, from 0 to 1.
  """
  names = list(known)
  if found := difflib.get_close_matches(word, names, n=1, cutoff=cutoff):
    return found[0]
  tails = [_tail(name) for name in names]
  found = difflib.get_close_matches(_tail(word), tails, n=1, cutoff=cutoff)
  return names[tails.index(found[0])] if found else None


def hint(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
  """Returns `; did you mean 'name'?` for the end of a message, or nothing."""
  found = nearest(word, known, cutoff)
  return "" if found is None else f"; did you mean {found!r}?"


def _tail(name: str) -> str:
  return name.replace("/", ".").rsplit(".", 1)[-1]
