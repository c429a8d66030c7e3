"""Summary of a sweep: each arm compared with the baseline, in numbers and in words."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from hc_jax.ablate.reporting.convergence import convergence_factor, ema
from hc_jax.ablate.reporting.statistics import Difference, mean_and_sd, paired_difference
from hc_jax.ablate.running.records import Result
from hc_jax.ablate.sweep import Sweep


@dataclasses.dataclass(frozen=True)
class Arm:
  """An arm compared with the baseline.

  Attributes:
    result: result of the arm.
    is_baseline: whether the arm is the baseline.
    finals: last validation losses of the seeds that did not diverge.
    diverged: `(seed, step)` of the seeds that diverged.
    difference: paired difference of the finals to the baseline's. None for the baseline, and if a
      seed of either arm diverged.
    factor: `convergence_factor` of the mean of the smoothed curves. None if the baseline's final
      loss is never reached, or `difference` is None.
    factors: `convergence_factor` of each seed.
  """

  result: Result
  is_baseline: bool
  finals: list[float]
  diverged: list[tuple[int, int]]
  difference: Difference | None
  factor: float | None
  factors: list[float | None]

  @property
  def name(self) -> str:
    """Returns the name of the arm."""
    return self.result.group.arm

  @property
  def mean_and_sd(self) -> tuple[float, float | None]:
    """Returns mean and standard deviation of the finals; (nan, None) if there are none."""
    return mean_and_sd(self.finals) if self.finals else (float("nan"), None)


def compare(results: Sequence[Result], baseline: str) -> list[Arm]:
  """Compares each arm with the baseline.

  Args:
    results: one result for each arm.
    baseline: name of the baseline. If it is not among the results, nothing is compared.
  """
  base = next((r for r in results if r.group.arm == baseline), None)
  return [_arm(result, base) for result in results]


def _arm(result: Result, base: Result | None) -> Arm:
  pairs = list(zip(result.seeds, result.curves, strict=True))
  diverged = [(seed, c.diverged) for seed, c in pairs if c.diverged is not None]
  finals = [c.final for _, c in pairs if c.final is not None]
  difference, factor, factors = None, None, []
  comparable = base is not None and result is not base and not diverged
  if comparable and all(c.diverged is None for c in base.curves):
    difference = paired_difference(finals, [c.final for c in base.curves])
    steps = base.curves[0].train["step"]
    mine, theirs = smoothed(result), smoothed(base)
    factor = convergence_factor(steps, mine.mean(axis=0), theirs.mean(axis=0))
    factors = [convergence_factor(steps, a, b) for a, b in zip(mine, theirs, strict=True)]
  return Arm(result, result is base, finals, diverged, difference, factor, factors)


def smoothed(result: Result) -> np.ndarray:
  """Returns the smoothed training losses `[S, T]` of an arm in which no seed diverged."""
  return np.stack([ema(c.train["step"], c.train["loss"]) for c in result.curves])


def at_shared_rate(sweep: Sweep, results: Sequence[Result]) -> list[Result]:
  """Returns the results at the base's learning rate."""
  return [r for r in results if r.group.learning_rate == sweep.shared_rate]


def at_own_best(sweep: Sweep, results: Sequence[Result]) -> list[Result]:
  """Returns each arm's result with the lowest mean final loss, if no seed diverged in it."""
  best = []
  for name in sweep.arms:
    whole = [
      r for r in results if r.group.arm == name and all(c.diverged is None for c in r.curves)
    ]
    if whole:
      best.append(min(whole, key=lambda r: np.mean([c.final for c in r.curves])))
  return best


def in_words(arm: Arm, baseline: str) -> str:
  """Returns the difference to the baseline in words."""
  if arm.is_baseline and not arm.diverged:
    return "the baseline"
  if arm.diverged:
    total = len(arm.result.seeds)
    where = ", ".join(f"seed {seed} at step {step:,}" for seed, step in arm.diverged)
    return f"diverged: {len(arm.diverged)} of {total} seeds ({where}); not compared"
  if arm.difference is None:
    return f"not compared: {baseline} diverged or is not finished"
  found = arm.difference
  if found.half_width is None:
    return "one seed: there is no interval, so that nothing can be concluded"
  if found.low <= 0 <= found.high:
    return f"no difference seen: the interval {found.low:+.4f} to {found.high:+.4f} includes zero"
  side = "lower" if found.mean < 0 else "higher"
  return f"{side} than {baseline} by {abs(found.mean):.4f} nats per token"


def convergence_in_words(arm: Arm, baseline: Arm) -> str:
  """Returns in words how soon an arm reaches the baseline's final loss."""
  if arm.difference is None:
    return in_words(arm, baseline.name)
  if arm.factor is None:
    return f"never reaches {baseline.name}'s final loss in this run"
  text = f"reaches {baseline.name}'s final loss in {share(arm.factor, 'tokens')}"
  known = [factor for factor in arm.factors if factor is not None]
  if len(arm.factors) > 1:
    missing = len(arm.factors) - len(known)
    text += f" (seed by seed: {share(max(known))} to {share(min(known))}" if known else " ("
    text += f"; {missing} of {len(arm.factors)} seeds never" if missing and known else ""
    text += ")"
  time = ("step_seconds", "training time")
  if arm.result.costs["step_cpu_seconds"] and arm.result.provenance["platform"] == "cpu":
    time = ("step_cpu_seconds", "processor time")  # other programs disturb the wall-clock
  for key, words in (("flops_per_token", "FLOPs"), time):
    ratio = cost_ratio(arm, baseline, key)
    if ratio:
      text += f", {share(arm.factor / ratio, words)}"
  return text


def share(factor: float, of: str = "") -> str:
  """Returns 1.8 as "1/1.80 of the tokens" and 0.8 as "1.25 times the tokens"; `of` is the unit."""
  if factor >= 1:
    return f"1/{factor:.2f}" + (f" of the {of}" if of else "")
  return f"{1 / factor:.2f} times" + (f" the {of}" if of else "")


def cost_ratio(arm: Arm, baseline: Arm, key: str) -> float | None:
  """Returns a cost over the baseline's cost; None if either is unknown or zero."""
  mine, theirs = arm.result.costs.get(key), baseline.result.costs.get(key)
  return mine / theirs if mine and theirs else None
