"""Pure functions on arrays: no Flax modules, no state."""

from hc_jax.ops.channels import channel_weights as channel_weights
from hc_jax.ops.combine import lift as lift
from hc_jax.ops.generator import Generator as Generator
from hc_jax.ops.generator import boundary as boundary
from hc_jax.ops.generator import coefs as coefs
from hc_jax.ops.normed_read import ReadNorm as ReadNorm
from hc_jax.ops.options import DERIVATIVES as DERIVATIVES
from hc_jax.ops.options import IMPLEMENTATIONS as IMPLEMENTATIONS
from hc_jax.ops.options import check_options as check_options
from hc_jax.ops.plain import is_plain as is_plain
from hc_jax.ops.plain import plain_residual as plain_residual
from hc_jax.ops.project import NORMS as NORMS
from hc_jax.ops.project import check_norm as check_norm
from hc_jax.ops.project import project as project
from hc_jax.ops.project import reciprocal_std as reciprocal_std
from hc_jax.ops.sinkhorn import SINKHORN_GRADIENTS as SINKHORN_GRADIENTS
from hc_jax.ops.sinkhorn import check_sinkhorn as check_sinkhorn
from hc_jax.ops.sinkhorn import sinkhorn as sinkhorn
from hc_jax.ops.streams import expand as expand
from hc_jax.ops.streams import read as read
from hc_jax.ops.streams import reduce as reduce
from hc_jax.ops.streams import write as write
