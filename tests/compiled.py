"""What tests compile with; it lives in the package, whose selftest uses it too."""

from hc_jax.testing.compiled import jit as jit
from hc_jax.testing.compiled import normal as normal
from hc_jax.testing.compiled import options as options
