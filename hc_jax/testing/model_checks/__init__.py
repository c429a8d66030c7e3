"""Checks that a user's own model calls its connections by their conventions."""

from hc_jax.testing.model_checks.report import Report as Report
from hc_jax.testing.model_checks.report import check_model as check_model
