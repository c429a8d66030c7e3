"""Runs the peer packages on small random cases and writes their results to tests/goldens/*.npz.

    make goldens

It needs the extra `parity` (PyTorch, hyper-connections, transformers). Weights, inputs, outputs and
gradients come from the peers. `tests/goldens/test_goldens.py` compares our results with the files
and needs no peer; `tests/parity/` runs the peers live.
"""

import importlib.metadata
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
PEERS = {"hyper_connections": ("hyper-connections", "torch"), "olmo": ("transformers", "torch")}
STREAMS = {
  "n1_tanh": {"n": 1, "tanh": True},
  "n1_linear": {"n": 1, "tanh": False},
  "n2_tanh": {"n": 2, "tanh": True},
  "n2_linear": {"n": 2, "tanh": False},
  "n4_tanh": {"n": 4, "tanh": True},
  "n4_linear": {"n": 4, "tanh": False},
  "n4_static": {"n": 4, "tanh": True, "dynamic": False},
}
CONSTRAINED = {f"n{n}_mhc": {"n": n, "tanh": False, "constrained": True} for n in (1, 2, 4)}
# With a token of zeros and a stream of zeros, like embeddings of padding.
ZERO = {
  "n4_tanh_zero": {"n": 4, "tanh": True, "zeros": True},
  "n4_mhc_zero": {"n": 4, "tanh": False, "constrained": True, "zeros": True},
}
OLMO = {
  "hidden_size": 16,
  "intermediate_size": 24,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "vocab_size": 19,
  "max_position_embeddings": 32,
  "pad_token_id": None,
  "eos_token_id": None,
}


def hyper_connections(
  n,
  tanh,
  dynamic=True,
  constrained=False,
  zeros=False,
  *,
  width=8,
  batch=2,
  length=3,
  seed=0,
):
  """Runs one `HyperConnections` with random parameters around the branch sin.

  Args:
    n: number of streams.
    tanh: whether the dynamic maps use tanh.
    dynamic: False sets the projections to zero, because the package has no static connections.
    constrained: whether to run `ManifoldConstrainedHyperConnections` instead.
    zeros: whether to set the streams of the first token, and the last stream of the last token, to
      zero.
    width: width of a stream.
    batch: number of sequences.
    length: number of tokens in a sequence.
    seed: seed of parameters and inputs.

  Returns:
    Parameters, inputs, outputs and gradients, by name of array.
  """
  import torch
  from hyper_connections import HyperConnections, ManifoldConstrainedHyperConnections

  rng = np.random.default_rng([seed, n, tanh])

  def normal(*shape):
    return torch.tensor(rng.standard_normal(shape, np.float32))

  if constrained:
    module = ManifoldConstrainedHyperConnections(n, dim=width, layer_index=1)
  else:
    module = HyperConnections(n, dim=width, layer_index=1, tanh=tanh)
  with torch.no_grad():
    for name, value in module.named_parameters():
      far = 0.3
      if name.endswith("_fn"):
        far = width**-0.5 if dynamic else 0.0
      value.add_(far * normal(*value.shape))
      if name.endswith("_scale"):
        value.add_(0.5)
  streams = normal(batch, length, n, width) + 0.5 * normal(batch, length, n, 1)
  if zeros:
    streams[0, 0] = streams[-1, -1, -1] = 0
  streams.requires_grad_()
  weights = normal(batch, length, n, width)
  folded = streams.permute(0, 2, 1, 3).reshape(batch * n, length, width)  # "(b s) ... d"
  branch_input, add_residual = module(folded)
  out = add_residual(torch.sin(branch_input))
  out = out.reshape(batch, n, length, width).permute(0, 2, 1, 3)
  (out * weights).sum().backward()
  found = {"streams": streams, "weights": weights, "branch_input": branch_input, "out": out}
  found |= {f"state/{name}": value for name, value in module.state_dict().items()}
  found |= {f"grad/{name}": value.grad for name, value in module.named_parameters()}
  found["grad/streams"] = streams.grad
  return {name: value.detach().numpy() for name, value in found.items()}


def olmo(tied, *, batch=2, length=10, seed=0, **sizes):
  """Returns the weights of a random `OlmoForCausalLM`, tokens, and its logits, by name of array."""
  import torch
  from transformers import OlmoConfig, OlmoForCausalLM

  config = OlmoConfig(**{**OLMO, **sizes}, tie_word_embeddings=tied)
  model = OlmoForCausalLM(config).eval()
  rng = np.random.default_rng([seed, tied])
  with torch.no_grad():
    for _, value in sorted(model.named_parameters()):
      value.copy_(torch.tensor(0.3 * rng.standard_normal(value.shape, np.float32)))
    tokens = rng.integers(0, config.vocab_size, (batch, length))
    logits = model(torch.tensor(tokens)).logits
  state = {f"state/{name}": value.numpy() for name, value in model.state_dict().items()}
  return {"tokens": tokens.astype(np.int32), "logits": logits.numpy(), **state}


def make(peer):
  """Returns the arrays of all cases of one file, by "case/name"."""
  if peer == "hyper_connections":
    cases = {
      name: hyper_connections(**case) for name, case in {**STREAMS, **CONSTRAINED, **ZERO}.items()
    }
  else:
    cases = {"tied": olmo(True), "untied": olmo(False)}
  return {f"{case}/{name}": a for case, arrays in cases.items() for name, a in arrays.items()}


def load(peer):
  """Reads a golden file; returns its cases (arrays by name) and the versions of the peers."""
  cases, versions = {}, ""
  with np.load(HERE / f"{peer}.npz") as file:
    for name in file.files:
      if name == "versions":
        versions = str(file[name])
        continue
      case, rest = name.split("/", 1)
      cases.setdefault(case, {})[rest] = file[name]
  return cases, versions


def main():
  for peer, packages in PEERS.items():
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    np.savez_compressed(HERE / f"{peer}.npz", **make(peer), versions=np.asarray(versions))
    print(f"{peer}.npz: {(HERE / f'{peer}.npz').stat().st_size} bytes, {versions}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
