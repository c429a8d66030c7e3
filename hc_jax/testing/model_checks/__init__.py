"""Whether a user's own model keeps the conventions of its connections."""

from hc_jax.testing.model_checks.report import Report as Report
from hc_jax.testing.model_checks.report import check_model as check_model
