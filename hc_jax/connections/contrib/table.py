"""Registration of the variants of `contrib`: importing this module adds them to `CONNECTIONS`.

Commands take `--import=hc_jax.connections.contrib.table`, and then
`--config.model.connection.name=cayley`.
"""

from hc_jax.connections import Connection, register
from hc_jax.connections.contrib import (
  MUDD,
  CayleyHC,
  ContinuousHC,
  DenseFormer,
  MultiHeadAttentionResiduals,
  NewtonHC,
  PartitionedHC,
  SpectralSphereHC,
)

VARIANTS: dict[str, type[Connection]] = {
  "spectral_sphere": SpectralSphereHC,
  "cayley": CayleyHC,
  "newton": NewtonHC,
  "matrix_exponential": ContinuousHC,
  "partitioned": PartitionedHC,
  "multi_head_attn_res": MultiHeadAttentionResiduals,
}
# Their branches are whole blocks, `--config.model.block=whole`.
DENSE: dict[str, type[Connection]] = {"dense_former": DenseFormer, "mudd": MUDD}
for _name, _cls in {**VARIANTS, **DENSE}.items():
  register(_name, _cls)
