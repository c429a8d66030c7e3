"""Costs of a function, found by tracing it: FLOPs, and memory kept for the backward pass."""

from hc_jax.plan.flops import count_flops
from hc_jax.plan.kept import Kept, kept

__all__ = ["Kept", "count_flops", "kept"]
