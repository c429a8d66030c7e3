"""What a model costs, counted on paper: FLOPs of a forward pass and bytes of activations.

Plain numbers in, plain numbers out. A multiplication and an addition are one FLOP each, so a weight
of a matrix product costs two FLOPs per token. What does not grow with the width is left out.
"""

NORM_FLOPS = {"rmsnorm": 3, "layernorm": 5}  # per element: square and add, scale; mean, subtract


def transformer_flops(
  *,
  d_model: int,
  num_layers: int,
  d_ff: int,
  vocab_size: int,
  kv_fraction: float = 1.0,
  gated: bool = True,
  num_experts: int = 0,
  active_experts: int = 1,
  num_norms: int = 0,
  norm: str = "layernorm",
) -> float:
  """Forward FLOPs per token of a transformer, without its connections.

  Matrix products and norms: not the scores of attention, which grow with the length, and no
  activation function, residual addition or embedding lookup.

  Args:
    d_model: d.
    num_layers: blocks.
    d_ff: inner width of the feed-forward, of one expert if there are several.
    vocab_size: columns of the output layer.
    kv_fraction: key and value heads over query heads.
    gated: a feed-forward of three matrices (SwiGLU), not two.
    num_experts: columns of the router; 0 without one.
    active_experts: feed-forwards that a token goes through.
    num_norms: norms of d elements that a token goes through, in the whole network.
    norm: their kind, a key of `NORM_FLOPS`.
  """
  attention = (2 + 2 * kv_fraction) * d_model**2
  experts = active_experts * (3 if gated else 2) * d_model * d_ff
  weights = num_layers * (attention + experts + num_experts * d_model) + vocab_size * d_model
  return 2 * weights + num_norms * NORM_FLOPS[norm] * d_model


def connection_flops(
  num_streams: int, width: int, *, dynamic: bool = True, norm: str = "layernorm"
) -> int:
  """Forward FLOPs per token of one site of hyper-connections (arXiv 2409.19606, Algorithm 2).

  Read and mix are n(n + 1) weights, write n, each at two FLOPs per element of the width. Dynamic
  weights cost the norm of n streams and a projection of each of them to n + 2 numbers.

  The paper's Table 8 is this count for static connections. For dynamic ones it states less, so
  little that the projection of n streams is not in it: OLMo-1B with n = 4 has 0.0049 GFLOPs there
  and 0.0076 here.

  Args:
    num_streams: n.
    width: w, d_model for hyper-connections.
    dynamic: DHC, not SHC.
    norm: before the projection, a key of `NORM_FLOPS`.
  """
  weights = num_streams * (num_streams + 2)
  flops = 2 * weights * width
  if dynamic:
    flops += 2 * weights * width + NORM_FLOPS[norm] * num_streams * width
  return flops


def activation_bytes(
  *, length: int, batch: int, d_model: int, num_layers: int, num_heads: int
) -> float:
  """Activations that training keeps without rematerialisation: s b d L (34 + 5 a s / d).

  Of a transformer with 16-bit activations and the scores of attention kept (arXiv 2205.05198, which
  Appendix B of 2409.19606 starts from).
  """
  return length * batch * num_layers * (34 * d_model + 5 * num_heads * length)


def connection_activation_bytes(
  *,
  num_streams: int,
  length: int,
  batch: int,
  d_model: int,
  num_layers: int,
  recompute: bool = False,
) -> int:
  """What hyper-connections add to `activation_bytes` (2409.19606, Appendix B), as stated there.

  2 n s b d L; with recomputation n s b d, which does not grow with depth. It is an estimate: its
  Table 9 holds what the paper measured on 8 GPUs, and the ratios there are others.
  """
  one = num_streams * length * batch * d_model
  return one if recompute else 2 * one * num_layers
