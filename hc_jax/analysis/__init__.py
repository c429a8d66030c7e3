"""Looking inside: what connections do in a trained model. Takes any model as an argument."""

from hc_jax.analysis.collect import collect_coefs as collect_coefs
from hc_jax.analysis.collect import token_mean as token_mean
