"""`make mutants`: tries every mistake on purpose, and prints which test finds it."""

import sys

from tests import environment

environment.prepare()  # eight devices, because one mistake shows only on a mesh

from tests.mutants.run import mutation_run  # noqa: E402  (after the environment)

if __name__ == "__main__":
  sys.exit(mutation_run())
