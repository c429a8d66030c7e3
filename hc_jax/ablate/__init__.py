"""Ablations: paired runs of several connections, and a report that compares them."""

from hc_jax.ablate.sweep import Group as Group
from hc_jax.ablate.sweep import Sweep as Sweep
from hc_jax.ablate.sweep import load_sweep as load_sweep
from hc_jax.ablate.tasks import TaskArm as TaskArm
from hc_jax.ablate.tasks import compare_tasks as compare_tasks
from hc_jax.ablate.tasks import table as table
