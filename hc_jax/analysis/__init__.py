"""Analysis of the connections in a trained model; works on any Linen or NNX model.

sites = collect_sites(model, params, tokens)
report.write_report(sites, "figures")       # needs matplotlib; `from hc_jax.analysis import report`
"""

from hc_jax.analysis.collect import Site as Site
from hc_jax.analysis.collect import collect_coefs as collect_coefs
from hc_jax.analysis.collect import collect_sites as collect_sites
from hc_jax.analysis.collect import token_mean as token_mean
from hc_jax.analysis.stream_ablation import ablate_streams as ablate_streams
