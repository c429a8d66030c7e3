"""Compares the time of a connection here and in the PyTorch package `hyper-connections`.

It needs PyTorch and the package: `make parity` installs both into .venv-parity. The work is that of
benchmarks/ops.py: two sublayers of dynamic hyper-connections whose branch returns its input,
forward and backward, with gradients of parameters and streams. Figures are for one sublayer.
JAX's branch is hidden from its compiler, torch's is not. All contenders run in turn in one process.
Ratios are to ours. If PyTorch finds a GPU, both run on it.

    python benchmarks/compare_torch.py                       # a table for each dtype
    python benchmarks/compare_torch.py --no-compile          # without torch.compile
"""

import argparse
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import ops, timing


def torch_programs(n, tokens, d, dtype, compiled):
  """Returns forward and backward of the package: eager and, if `compiled`, by torch.compile."""
  import torch
  from hyper_connections import get_init_and_expand_reduce_stream_functions

  device = "cuda" if torch.cuda.is_available() else "cpu"

  class Chain(torch.nn.Module):
    def __init__(self):
      super().__init__()
      init, self.expand, self.reduce = get_init_and_expand_reduce_stream_functions(n, dim=d)
      self.layers = torch.nn.ModuleList(
        init(branch=torch.nn.Identity(), layer_index=index) for index in range(ops.DEPTH)
      )

    def forward(self, x):
      x = self.expand(x)
      for layer in self.layers:
        x = layer(x)
      return self.reduce(x)

  kind = getattr(torch, dtype)
  chain = Chain().to(device, kind)
  x = torch.randn(1, tokens, d, device=device, dtype=kind, requires_grad=True)
  cotangent = torch.ones_like(x)

  def program(module):
    def run():
      module.zero_grad(set_to_none=True)
      x.grad = None
      module(x).backward(cotangent)
      if device == "cuda":
        torch.cuda.synchronize()

    return run

  made = {"torch eager": timing.Program(program(chain))}
  if compiled:
    start = time.perf_counter()
    run = program(torch.compile(chain))
    run()
    made["torch.compile"] = timing.Program(run, time.perf_counter() - start)
  return made


def parse(argv):
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument(
    "--rows", default="dhc,naive,einsum-mhc", help="our contenders (dhc,naive,einsum-mhc)"
  )
  parser.add_argument("--tokens", type=int, default=2048, help="tokens of a batch (2048)")
  parser.add_argument("--d", type=int, default=512, help="width (512)")
  parser.add_argument("--n", type=int, default=4, help="streams (4)")
  parser.add_argument(
    "--dtypes", default="float32,bfloat16", help="dtypes of streams (float32,bfloat16)"
  )
  parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
  parser.add_argument("--rounds", type=int, default=15, help="runs of each contender (15)")
  parser.add_argument("--json", type=pathlib.Path, help="write all figures to this file too")
  return parser.parse_args(argv)


def main(argv=None):
  flags = parse(argv)
  names = timing.chosen(flags.rows, ops.ROWS.split(","))
  try:
    import hyper_connections as _  # noqa: F401
    import torch
  except ImportError as error:
    print(f"{error}; `make parity` installs PyTorch and hyper-connections into .venv-parity")
    return 2
  facts = {**timing.about(), "torch": torch.__version__}
  print(f"{timing.describe(facts)}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
  tables = {}
  for dtype in flags.dtypes.split(","):
    ours = ops.connections(names, flags.n)
    programs = {
      name: ops.make(connection, flags.tokens, flags.d, dtype)["forward and backward"]
      for name, connection in ours.items()
    }
    programs |= torch_programs(flags.n, flags.tokens, flags.d, dtype, not flags.no_compile)
    rows = ops.per_sublayer(timing.interleave(programs, flags.rounds))
    title = f"forward and backward, {flags.tokens} tokens, d = {flags.d}, n = {flags.n}, {dtype}"
    timing.print_rows(f"{title}; one sublayer", rows)
    tables[title] = rows
  timing.write_json(flags.json, facts, tables)
  return 0


if __name__ == "__main__":
  sys.exit(main())
