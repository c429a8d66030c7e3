"""New or rarely used variants; `hc_jax.connections.contrib.table` registers their names."""

from hc_jax.connections.contrib.cayley import CayleyHC as CayleyHC
from hc_jax.connections.contrib.dense import DenseFormer as DenseFormer
from hc_jax.connections.contrib.matrix_exponential import ContinuousHC as ContinuousHC
from hc_jax.connections.contrib.mudd import MUDD as MUDD
from hc_jax.connections.contrib.multi_head_attn_res import (
  MultiHeadAttentionResiduals as MultiHeadAttentionResiduals,
)
from hc_jax.connections.contrib.newton import NewtonHC as NewtonHC
from hc_jax.connections.contrib.partitioned import PartitionedHC as PartitionedHC
from hc_jax.connections.contrib.spectral_sphere import SpectralSphereHC as SpectralSphereHC
