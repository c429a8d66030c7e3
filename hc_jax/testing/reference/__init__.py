"""Every variant in float64 NumPy, written from its paper and from nothing else."""

from hc_jax.testing.reference.hyper import *  # noqa: F403
