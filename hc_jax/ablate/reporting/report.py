"""The report of a sweep: results in words, tables and pictures, and their origin."""

import os
from collections.abc import Callable, Sequence

from hc_jax import durable
from hc_jax.ablate.reporting import figures, summary
from hc_jax.ablate.reporting.document import (
  Block,
  Heading,
  Items,
  Paragraph,
  Picture,
  Table,
  to_html,
  to_markdown,
)
from hc_jax.ablate.reporting.origin import origin, paired
from hc_jax.ablate.reporting.summary import Arm
from hc_jax.ablate.running.records import Result
from hc_jax.ablate.sweep import Sweep
from hc_jax.tables import aligned

MARKDOWN, HTML = "report.md", "report.html"
TINY = 100_000_000  # models with fewer parameters are called very small


def write_report(
  out: str,
  sweep: Sweep,
  results: Sequence[Result],
  command: str,
  log: Callable[[str], None] = print,
) -> None:
  """Writes `report.md`, `report.html` and the pictures; the same results give the same bytes.

  Args:
    out: folder of the sweep.
    sweep: sweep in that folder.
    results: results of the finished arms, at least one.
    command: command line that started the sweep.
    log: function that receives the table and the paths.
  """
  shared = summary.compare(summary.at_shared_rate(sweep, results), sweep.baseline_arm)
  blocks: list[Block] = [Heading(sweep.title, 1), *_length(sweep, results)]
  if missing := _missing(sweep, results):
    blocks.append(Paragraph(missing))
  rate = f" at the shared learning rate {sweep.shared_rate:g}" if sweep.learning_rates else ""
  blocks += [Heading(f"Final validation loss{rate}"), *_table(sweep, shared)]
  pictures = figures.draw(out, sweep, shared, results)
  blocks += [pictures[name] for name in ("differences", "difference_over_time") if name in pictures]
  if sweep.learning_rates:
    blocks += _own_best(sweep, results, pictures)
  if "loss" in pictures:
    blocks += [Heading("Validation loss against what it cost"), pictures["loss"]]
  blocks += _convergence(sweep, shared, pictures)
  blocks += _costs(sweep, shared)
  blocks += [Heading("Is it paired?"), Paragraph(paired(results))]
  blocks += [Heading("Where this comes from"), Items(origin(sweep, results, command))]
  durable.write_atomically(os.path.join(out, MARKDOWN), to_markdown(blocks))
  durable.write_atomically(os.path.join(out, HTML), to_html(blocks, out))
  _say(sweep, shared, out, log)


def _length(sweep: Sweep, results: Sequence[Result]) -> list[Block]:
  train, length = sweep.base.train, sweep.base.data.length
  step = train.batch_size * length
  tokens = step * train.num_steps
  params = results[0].costs["params"]
  arms, seeds = len(sweep.arms), len(sweep.seeds)
  one_rate = ""
  if not sweep.learning_rates:
    one_rate = (
      f" All arms have the learning rate {sweep.shared_rate:g}; another may suit an arm better "
      "(`--learning-rates`)."
    )
  kind = "This is a very small model and a short run" if params < TINY else "This is one setting"
  return [
    Paragraph(
      f"{arms} arms, each with {seeds} {'seed' if seeds == 1 else 'seeds'}. **Every run saw "
      f"{tokens:,} tokens** of {sweep.base.data.name}: {train.num_steps:,} steps of "
      f"{train.batch_size} x {length} = {step:,}. The model of the baseline has {params:,} "
      f"parameters: {tokens / params:.1f} tokens for each parameter (about 20 make the best use of "
      f"compute). {kind}; the results need not hold for others.{one_rate}"
    )
  ]


def _missing(sweep: Sweep, results: Sequence[Result]) -> str:
  finished = {result.group for result in results}
  names = [group.id for group in sweep.groups() if group not in finished]
  return f"**Not finished yet, and missing here: {', '.join(names)}.**" if names else ""


def _table(sweep: Sweep, arms: Sequence[Arm]) -> list[Block]:
  rows = []
  for arm in arms:
    mean, sd = arm.mean_and_sd
    loss = "-" if not arm.finals else f"{mean:.4f}" + ("" if sd is None else f" ± {sd:.4f}")
    bits = [c.val["bpb"][-1] for c in arm.result.curves if c.final is not None and "bpb" in c.val]
    rows.append(
      [
        f"`{arm.name}`",
        f"{len(arm.finals)} of {len(arm.result.seeds)}",
        loss,
        f"{sum(bits) / len(bits):.4f}" if bits else "-",
        _interval(arm),
        summary.in_words(arm, sweep.baseline_arm),
      ]
    )
  head = ["arm", "seeds", "nats per token, ± sd", "bits per byte"]
  head += [f"minus {sweep.baseline_arm} [95 % interval]", "in words"]
  note = (
    f"Loss after the last step on {sweep.base.train.eval_batches} fixed batches; mean over seeds ± "
    f"standard deviation. Differences are paired: arm minus {sweep.baseline_arm} for each seed. "
    "The interval is Student's t of their mean. One in twenty such intervals misses the truth, so "
    "that among many arms one may stand out by chance."
  )
  return [Table(head, rows, left=(0, 5)), Paragraph(note)]


def _interval(arm: Arm) -> str:
  if arm.difference is None:
    return "-"
  mean = f"{arm.difference.mean:+.4f}"
  if arm.difference.half_width is None:
    return mean
  return f"{mean} [{arm.difference.low:+.4f}, {arm.difference.high:+.4f}]"


def _own_best(sweep: Sweep, results: Sequence[Result], pictures: dict[str, Picture]) -> list[Block]:
  best = summary.compare(summary.at_own_best(sweep, results), sweep.baseline_arm)
  rates = sorted(map(float, sweep.learning_rates))
  rows = []
  for arm in best:
    mean, sd = arm.mean_and_sd
    rate = arm.result.group.learning_rate
    edge = " (at the edge of the grid)" if rate in (rates[0], rates[-1]) else ""
    rows.append(
      [
        f"`{arm.name}`",
        f"{rate:g}{edge}",
        f"{mean:.4f}" + ("" if sd is None else f" ± {sd:.4f}"),
        _interval(arm),
        summary.in_words(arm, sweep.baseline_arm),
      ]
    )
  head = ["arm", "learning rate", "nats per token, ± sd"]
  head += [f"minus {sweep.baseline_arm} [95 % interval]", "in words"]
  note = (
    "Each arm, the baseline too, at the rate with the lowest mean loss. The rate is chosen by the "
    "loss that is reported, which flatters all arms alike. A best rate at the edge of the grid may "
    "not be the best of all; a rate at which a seed diverged is never chosen."
  )
  blocks: list[Block] = [Heading("Each arm at its own best learning rate")]
  blocks += [Table(head, rows, left=(0, 1, 4)), Paragraph(note)]
  return blocks + ([pictures["rates"]] if "rates" in pictures else [])


def _convergence(sweep: Sweep, arms: Sequence[Arm], pictures: dict[str, Picture]) -> list[Block]:
  baseline = next((arm for arm in arms if arm.is_baseline), None)
  others = [arm for arm in arms if not arm.is_baseline]
  if baseline is None or not others:
    return []
  lines = [f"`{arm.name}` {summary.convergence_in_words(arm, baseline)}." for arm in others]
  every = sweep.base.train.log_every
  note = (
    "Measured on the training loss, smoothed as in the paper (exponential moving average, 0.99 per "
    "step" + (f", over every {every}th step" if every > 1 else "") + "), mean over seeds."
  )
  if "constant" not in sweep.base.optim.schedule:
    note += (
      " The learning rate falls until the end of the run. That lowers the baseline's final loss, "
      "but not the loss of an arm that is to reach it earlier: the factors are on the low side."
    )
  blocks: list[Block] = [Heading("How soon an arm reaches the baseline's final loss")]
  blocks += [Items(lines), Paragraph(note)]
  return blocks + ([pictures["smoothed"]] if "smoothed" in pictures else [])


_COSTS = (  # key, head of the column, format, unit's size
  ("params", "parameters", "{:,.0f}", 1),
  ("connection_params", "of connections", "{:,.0f}", 1),
  ("flops_per_token", "training MFLOPs per token", "{:,.3f}", 1e6),
  ("memory_bytes", "peak memory, MB", "{:,.0f}", 1e6),
  ("step_seconds", "step, ms", "{:,.0f}", 1e-3),
  ("step_cpu_seconds", "processor time of a step, ms", "{:,.0f}", 1e-3),
  ("tokens_per_s", "tokens/s", "{:,.0f}", 1),
)


def _costs(sweep: Sweep, arms: Sequence[Arm]) -> list[Block]:
  baseline = next((arm for arm in arms if arm.is_baseline), None)
  known = [c for c in _COSTS if any(arm.result.costs.get(c[0]) is not None for arm in arms)]
  on_cpu = all(arm.result.provenance["platform"] == "cpu" for arm in arms)
  known = [c for c in known if c[0] != "step_cpu_seconds" or on_cpu]
  rows = []
  for arm in arms:
    row = [f"`{arm.name}`"]
    for key, _, form, unit in known:
      value = arm.result.costs.get(key)
      text = "-" if value is None else form.format(value / unit)
      ratio = None if baseline is None else summary.cost_ratio(arm, baseline, key)
      if ratio and not arm.is_baseline and key != "connection_params":
        text += f" (×{ratio:.3f})" if 0.99 < ratio < 1.01 else f" (×{ratio:.2f})"
      row.append(text)
    rows.append(row)
  costs = arms[0].result.costs
  lines = [
    f"In brackets: ratio to {sweep.baseline_arm} in this sweep.",
    f"FLOPs: {costs['flops_of']}.",
    f"Memory: {costs['memory_of']}.",
    f"Step, tokens/s: {costs['together']}, median over steps, without compilation, evaluation and "
    "checkpoints."
    + (" Processor time is less disturbed by other programs than the clock." if on_cpu else ""),
  ]
  head = ["arm", *(name for _, name, _, _ in known)]
  return [Heading("What an arm costs"), Table(head, rows), Items(lines)]


def _say(sweep: Sweep, arms: Sequence[Arm], out: str, log: Callable[[str], None]) -> None:
  rows = []
  for arm in arms:
    mean, sd = arm.mean_and_sd
    loss = "" if not arm.finals else f"{mean:.4f}" + ("" if sd is None else f" ± {sd:.4f}")
    rows.append([arm.name, loss, summary.in_words(arm, sweep.baseline_arm)])
  for line in ["", *aligned(rows)]:
    log(line)
  log(f"\n{os.path.join(out, MARKDOWN)}, {HTML}, results.jsonl")
