"""Float64 NumPy references of every variant, each written only from its paper."""

from hc_jax.testing.reference.hyper import *  # noqa: F403
