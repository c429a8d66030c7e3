"""What the package proves itself with, open to users' own models and variants."""

from hc_jax.testing import reference as reference
