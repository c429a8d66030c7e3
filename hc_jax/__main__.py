"""Entry point of `python -m hc_jax`, which is the command `hc-jax`."""

import sys

from hc_jax.cli import main

if __name__ == "__main__":
  sys.exit(main())
