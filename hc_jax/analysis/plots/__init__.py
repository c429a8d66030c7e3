"""Figures: each function returns one matplotlib figure, and `save` writes it."""

from hc_jax.analysis.plots.ablation import stream_ablation as stream_ablation
from hc_jax.analysis.plots.arms import ArmCurves as ArmCurves
from hc_jax.analysis.plots.arms import final_differences as final_differences
from hc_jax.analysis.plots.arms import learning_rates as learning_rates
from hc_jax.analysis.plots.arms import loss_against_cost as loss_against_cost
from hc_jax.analysis.plots.arms import loss_difference as loss_difference
from hc_jax.analysis.plots.arms import smoothed_losses as smoothed_losses
from hc_jax.analysis.plots.compare import compared as compared
from hc_jax.analysis.plots.connections import connection_weights as connection_weights
from hc_jax.analysis.plots.connections import weight_distributions as weight_distributions
from hc_jax.analysis.plots.depth import gains as gains
from hc_jax.analysis.plots.depth import similarity as similarity
from hc_jax.analysis.plots.depth import streams as streams
from hc_jax.analysis.plots.style import FORMATS as FORMATS
from hc_jax.analysis.plots.style import save as save
from hc_jax.analysis.plots.style import short as short
from hc_jax.analysis.plots.training import loss_curve as loss_curve
from hc_jax.analysis.plots.training import telemetry as telemetry
from hc_jax.analysis.plots.unfolded import stream_matrices as stream_matrices
from hc_jax.analysis.plots.unfolded import unfolded_matrices as unfolded_matrices
