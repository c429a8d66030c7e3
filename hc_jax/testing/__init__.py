"""The package's own proofs, for use on your own models and connections."""

from hc_jax.testing import reference as reference
from hc_jax.testing.conformance.suite import CONFORMANCE as CONFORMANCE
from hc_jax.testing.conformance.suite import check_connection as check_connection
from hc_jax.testing.harness import NotApplicable as NotApplicable
from hc_jax.testing.model_checks.report import Report as Report
from hc_jax.testing.model_checks.report import check_model as check_model
from hc_jax.testing.traps.subject import Subject as Subject
from hc_jax.testing.traps.table import TRAPS as TRAPS
from hc_jax.testing.traps.table import Trap as Trap
