"""Ablations: paired runs of several connections, and a report of what they show."""

from hc_jax.ablate.sweep import Group as Group
from hc_jax.ablate.sweep import Sweep as Sweep
from hc_jax.ablate.sweep import load_sweep as load_sweep
