"""`python -m hc_jax`: the same as `hc-jax`."""

import sys

from hc_jax.cli import main

if __name__ == "__main__":
  sys.exit(main())
