"""`python -m hc_jax.cli`, which does the same as `hc-jax`."""

import sys

from hc_jax.cli import main

if __name__ == "__main__":
  sys.exit(main())
