"""Recording of connections by callbacks from the compiled program; works for any kind of model."""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hc_jax.analysis.site import Site, end_of
from hc_jax.connections import Call, observing, tap


def record_sites(apply: Callable, params: Any, args: tuple, kwargs: dict) -> dict[str, Site]:
  """Runs `apply({"params": params}, *args, **kwargs)` and returns its connections as sites.

  Sites are named by their paths. A site that runs several times, as in a scanned NNX module, is
  named `path/call_0`, `path/call_1` and so on.

  Raises:
    ValueError: if the output does not depend on a connection, so that it is compiled away.
  """
  calls: list[tuple[str, Call, Any]] = []
  traced: dict[str, None] = {}  # in order

  def record(call: Call, run: Callable) -> Any:
    name = call.name
    traced[name] = None

    def see(seen: Call, out: Any) -> Any:
      calls.append((name, seen, out))
      return out

    return tap(call, run(call.streams), see)

  @jax.jit
  def run(params: Any, args: tuple, kwargs: dict) -> Any:
    with observing(record):
      return apply({"params": params}, *args, **kwargs)

  jax.block_until_ready(run(params, args, kwargs))
  jax.effects_barrier()
  seen = {name for name, *_ in calls}
  if unused := [name for name in traced if name not in seen]:
    raise ValueError(
      f"{', '.join(unused)}: the output does not depend on its streams, so that the compiled "
      "program leaves it out; use its streams, or take it out of the model"
    )
  reads = collections.defaultdict(list)
  order = []
  for name, call, out in calls:
    if call.kind == "read":
      order.append((name, len(reads[name])))
      index = None if call.index is None else int(call.index)
      reads[name].append(Site(out[1], call.streams, np.asarray(out[0]), None, index, end_of(call)))
    elif reads[name]:
      site = reads[name][-1]
      reads[name][-1] = dataclasses.replace(site, branch_output=call.branch_output)
  return {
    name if len(reads[name]) == 1 else f"{name}/call_{i}": reads[name][i] for name, i in order
  }
