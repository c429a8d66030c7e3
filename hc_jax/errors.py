"""The one error that is the user's to mend."""


class UserError(Exception):
  """Something is wrong before training, and the user can mend it: a config key, a file, a workdir.

  The message names the thing, the cause and the remedy. Entry points print it without a traceback
  and exit with code 2.
  """
