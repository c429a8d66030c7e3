"""Plans as text."""

from hc_jax.plan.planning import Plan, Policy
from hc_jax.tables import aligned, in_bytes


def plan_lines(plan: Plan) -> list[str]:
  """Returns the lines that `hc-jax plan` prints."""
  sizes = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
  count, rows = plan.count, plan.rows
  lines = [
    f"model    {count.total:,} parameters, {count.connection:,} of them hyper-connection",
    f"mesh     {plan.preset}: {sizes}; {plan.devices} device{'s' * (plan.devices > 1)}"
    + (f" of {in_bytes(plan.memory)}" if plan.memory else ""),
    f"step     {plan.batch_size:,} sequences of {plan.length:,} tokens in {plan.accumulation} "
    f"micro-step{'s' * (plan.accumulation > 1)}; {rows} sequence{'s' * (rows > 1)} per device at a "
    "time",
    "",
    "each device holds",
    f"  parameters       {in_bytes(plan.params):>9}",
    f"  optimizer state  {in_bytes(plan.optimizer):>9}",
    f"  gradients        {in_bytes(plan.gradients):>9}",
    "",
    "and for each model.remat (* the config's own; weights: copies in the dtype of products):",
  ]
  head = ["", "weights", "kept per sequence", "its streams", "working", "total", "step FLOPs"]
  if plan.memory:
    head.append("largest micro-step")
  table = [head] + [_row(plan, policy) for policy in plan.policies]
  lines += [f"  {line}" for line in aligned(table, right=range(1, len(head)))]
  lines += ["", *_verdict(plan)]
  return lines


def _row(plan: Plan, policy: Policy) -> list[str]:
  cells = [
    policy.remat + (" *" if policy is plan.policies[0] else ""),
    in_bytes(policy.weights),
    in_bytes(policy.kept),
    in_bytes(policy.streams),
    in_bytes(plan.work(policy, plan.rows)),
    in_bytes(plan.total(policy)),
    f"{policy.flops * plan.batch_size:.2e}",
  ]
  if plan.memory:
    rows = plan.largest(policy)
    cells.append(f"{rows} per device, {rows * plan.shards:,}" if rows else "none fits")
  return cells


def _verdict(plan: Plan) -> list[str]:
  """Returns lines with the connections' share of FLOPs, and whether the config fits in memory."""
  own, lines = plan.policies[0], []
  if plan.residual_flops is not None:
    share = 1 - plan.residual_flops / own.flops
    lines.append(f"hyper-connections are {share:.2%} of the step's FLOPs (model.remat={own.remat})")
  if plan.memory is None:
    return lines
  if plan.total(own) <= plan.memory:
    return [*lines, f"it fits: {in_bytes(plan.total(own))} of {in_bytes(plan.memory)}"]
  whole = plan.batch_size // plan.shards
  fits = [
    (plan.batch_size // (rows * plan.shards), policy.remat)
    for policy in plan.policies
    for rows in [next((r for r in range(plan.largest(policy, True), 0, -1) if whole % r == 0), 0)]
    if rows
  ]
  mine = [parts for parts, remat in fits if remat == own.remat]
  if mine:
    remedy = f"train.accumulation={mine[0]} makes it fit"
  elif fits:
    parts, remat = min(fits)
    remedy = f"model.remat={remat} with train.accumulation={parts} makes it fit"
  else:
    remedy = "no policy fits; split the state over more devices (fsdp), or shorten data.length"
  return [
    *lines,
    f"it does not fit: {in_bytes(plan.total(own))} of {in_bytes(plan.memory)}; {remedy}",
  ]
