"""The error for problems that the user can fix, and the names of arguments in its messages.

A module names its own arguments in messages: in backticks, as in "set `files`" and "`keep=0` is too
few", or as the first word, as in "keep=0 is too few". Its caller may have other names for them:
keys of a config, flags of a command.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping

_ARGUMENT = re.compile(r"`(\w+)(=[^`]*)?`|^(\w+)(?==)")


class UserError(Exception):
  """Error about something that the user can fix: a config key, a file, a workdir.

  The message names the thing, the cause and the remedy. Entry points print it without a traceback
  and exit with code 2.
  """

  exit_code = 2


@contextlib.contextmanager
def named(words: Mapping[str, str]) -> Iterator[None]:
  """Renames arguments in the messages of errors that are raised within the context.

  Only errors with an `exit_code` are changed, and raised again.

  Args:
    words: the caller's name for each argument, such as `{"files": "--files"}`. Other arguments keep
      their names, for a caller further up.
  """
  try:
    yield
  except Exception as error:
    if hasattr(error, "exit_code") and error.args:
      error.args = (in_words(str(error.args[0]), words), *error.args[1:])
    raise


def in_words(text: str, words: Mapping[str, str]) -> str:
  """Returns a message with the caller's names instead of the arguments; see `named`."""

  def word(found: re.Match) -> str:
    name = found[1] or found[3]
    return words[name] + (found[2] or "") if name in words else found[0]

  return _ARGUMENT.sub(word, text)
