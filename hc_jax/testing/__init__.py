"""What the package proves itself with, open to users' own models and variants."""

from hc_jax.testing import reference as reference
from hc_jax.testing.checks import Report as Report
from hc_jax.testing.checks import check_model as check_model
from hc_jax.testing.conformance import CONFORMANCE as CONFORMANCE
from hc_jax.testing.conformance import check_connection as check_connection
from hc_jax.testing.traps import TRAPS as TRAPS
from hc_jax.testing.traps import NotApplicable as NotApplicable
from hc_jax.testing.traps import Subject as Subject
from hc_jax.testing.traps import Trap as Trap
