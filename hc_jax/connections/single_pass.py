"""Single-pass mHC: each site is read by what the site before it made."""

import dataclasses
from typing import ClassVar

from hc_jax.connections.facts import Facts
from hc_jax.connections.mhc import MHC


class SinglePassMHC(MHC):
  """mHC whose read is made one site ahead, as DeepSeek-V4.1 has it.

      X' = mix(X) @ X + write(X) @ F(read(X_before) @ X)

  Site l makes the read of site l + 1, so that its write, the next read and the next projection need
  the streams once: with a kernel for the three, half of mHC's traffic. The first site reads stream
  0 alone. The last site's read makes the end of the network (`reduce="read"`), without a head.

  Maps, parameters and their initial values are those of `MHC`, by default in the form of
  DeepSeek-V4. Its report could not be read: the equations follow code that was published for it
  (Megatron-LM `single_pass_mhc.py`, Transformers).

      h, coefs = connection(streams, index, read=read)     # read is None at the first site
      streams, read = connection.write(streams, branch(h), coefs), coefs.next_read

  Blocks and layers of this package take and return a pair `(streams, read)` for it.
  """

  carries_read: ClassVar[bool] = True
  reduce_kind: ClassVar[str] = "read"
  form: str = "deepseek_v4"

  def facts(self, d_model: int) -> Facts:
    facts = super().facts(d_model)
    return dataclasses.replace(
      facts, source="DeepSeek-V4.1-Flash, by public code; arXiv 2512.24880, Eq. 3 and 7-9"
    )
