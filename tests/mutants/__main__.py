"""`make mutants`: makes every mistake on purpose, and says which test finds it."""

import sys

from tests import environment

environment.prepare()  # one mistake shows only on a mesh of eight devices

from tests.mutants.run import mutation_run  # noqa: E402  (after the environment)

if __name__ == "__main__":
  sys.exit(mutation_run())
