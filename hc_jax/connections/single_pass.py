"""Single-pass mHC: each site reads with the weights that the site before it computed."""

import dataclasses
from typing import ClassVar

from hc_jax.connections.facts import Facts
from hc_jax.connections.mhc import MHC


class SinglePassMHC(MHC):
  """mHC whose read is computed one site ahead, as in DeepSeek-V4.1.

      X' = mix(X) @ X + write(X) @ F(read(X_before) @ X)

  Site l computes the read of site l + 1. Its write, the next read and the next projection can then
  share one pass over the streams: a kernel for the three would halve mHC's memory traffic. A site
  without a `read` reads stream 0 alone; only the first site has none. The last site's read ends the
  network, `hc_jax.Reduce(kind="read")(streams, read)`, which models of this package choose.

  Maps, parameters and their initial values are those of `MHC`, by default in the form of
  DeepSeek-V4. The report could not be read: the equations follow code that was published for it
  (Megatron-LM `single_pass_mhc.py`, Transformers).

      h, coefs = connection(streams, index, read=read)     # read is None at the first site
      streams, read = connection.write(streams, branch(h), coefs), coefs.next_read

  Blocks and layers of this package take and return a pair `(streams, read)` for it.

  Attributes:
    form: "paper" or "deepseek_v4", as in `MHC`.

  Raises:
    ValueError: if `read` does not have the shape of `coefs.next_read` of a site with as many
      streams and views; when called, if `fractions` is not 1 or a field refuses
      its value.
  """

  carries_read: ClassVar[bool] = True
  reduce_kind: ClassVar[str] = "read"
  form: str = "deepseek_v4"

  def facts(self, d_model: int) -> Facts:
    facts = super().facts(d_model)
    return dataclasses.replace(
      facts, source="DeepSeek-V4.1-Flash, by public code; arXiv 2512.24880, Eq. 3 and 7-9"
    )
