"""What a function costs, found by tracing it: FLOPs, and what its backward pass keeps."""

from hc_jax.plan.flops import count_flops
from hc_jax.plan.kept import Kept, kept

__all__ = ["Kept", "count_flops", "kept"]
