"""The conformance suite: rules that every connection must keep, whoever wrote it."""

from hc_jax.testing.conformance.suite import CONFORMANCE as CONFORMANCE
from hc_jax.testing.conformance.suite import check_connection as check_connection
