"""Origin of a report: whether its runs are paired, and where, when and how they were made."""

from collections.abc import Sequence

from hc_jax.ablate.running.records import Result
from hc_jax.ablate.sweep import Sweep

BUSY = 1.5  # load per core above which other programs must have been running


def paired(results: Sequence[Result]) -> str:
  """Returns a paragraph that says whether runs of a seed began alike and saw the same batches."""
  first = results[0]
  text = (
    "Seeds, batches, order of the data, branches, optimizer and `stream_dtype` are the same in "
    "every arm; arms differ only in their connection. "
  )
  batches = [r.group.id for r in results if r.first_batch != first.first_batch]
  branches = [r.group.id for r in results if r.branch_init != first.branch_init]
  if batches:  # happens only if code or text changed between the arms
    text += (
      f"**The first batches of {', '.join(batches)} differ from {first.group.id}'s: not paired.** "
    )
  else:
    text += "Compared by SHA-256: the first batch of a seed is the same in every arm"
    text += "." if branches else ", and so are its initial parameters outside connections."
  if branches:
    text += (
      f" Initial parameters outside connections differ from {first.group.id}'s in: "
      f"{', '.join(branches)} (because blocks are arranged or scaled differently)."
    )
  return text


def origin(sweep: Sweep, results: Sequence[Result], command: str) -> list[str]:
  """Returns lines with the command, code, time, machine, text, model, optimizer and seeds."""
  found = [result.provenance for result in results]
  base = sweep.base
  commits = sorted({p["commit"] or "unknown (not a checkout)" for p in found})
  machines = sorted({p["machine"] for p in found})
  versions = sorted({f"Python {p['python']}, JAX {p['jax']}" for p in found})
  training = sum(result.costs["training_seconds"] for result in results) / 60
  lines = [
    f"Command: `{command}`",
    f"Commit: {', '.join(commits)}"
    + (" (+: with uncommitted changes)" if any("+" in c for c in commits) else ""),
    f"Time: {min(p['started'] for p in found)} to {max(p['finished'] for p in found)}, "
    f"including {training:.1f} minutes of training",
    f"Machine: {'; '.join(machines)}; {', '.join(versions)}",
    f"Text: {base.data.name}, fingerprint {results[0].fingerprint[:12]}, {base.data.tokenizer}; "
    f"validation on its first {base.train.eval_batches} batches",
    f"Model: {base.model.num_layers} layers, {base.model.d_model} wide, {base.model.num_heads} "
    f"heads, {base.model.dtype}, streams {base.model.stream_dtype or base.model.dtype}",
    f"Optimizer: {base.optim.name}, learning rate {base.optim.learning_rate:g}, "
    f"{base.optim.schedule}, {base.optim.warmup_steps} steps of warmup, weight decay "
    f"{base.optim.weight_decay:g}",
    f"Seeds: {', '.join(map(str, sweep.seeds))}",
  ]
  if note := busy(results):
    lines.append(note)
  return lines


def busy(results: Sequence[Result]) -> str:
  """Returns a warning if the load shows that other programs ran; "" otherwise."""
  loads = [
    (p["load"], p["cores"])
    for p in (result.provenance for result in results)
    if p["platform"] == "cpu" and p["load"] is not None
  ]
  if not any(load > BUSY * cores for load, cores in loads):
    return ""
  return (
    "**Other programs ran on the machine at the same time**: its load average was "
    f"{min(load for load, _ in loads):.1f} to {max(load for load, _ in loads):.1f} on "
    f"{loads[0][1]} cores. Wall-clock figures are upper bounds, and their ratios are rough"
  )
