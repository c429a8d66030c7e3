"""The twenty traps: mistakes in hyper-connection code, each seen in some implementation."""

from hc_jax.testing.traps.subject import Subject as Subject
from hc_jax.testing.traps.table import TRAPS as TRAPS
from hc_jax.testing.traps.table import Trap as Trap
