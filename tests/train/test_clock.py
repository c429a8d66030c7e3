"""Training time excludes parts that are timed apart; durations are h:mm:ss."""

import pytest

from hc_jax.step.loss import summary
from hc_jax.train import console


@pytest.mark.parametrize(
  "seconds, text",
  [(0, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01"), (25 * 3600 + 90, "25:01:30")],
)
def test_a_duration_counts_days_into_the_hours(seconds, text):
  assert console.duration(seconds) == text


def test_a_lap_leaves_out_what_is_timed_apart(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(console.time, "perf_counter", lambda: now[0])
  clock = console.Clock()
  now[0] += 3
  with clock.paused("eval"):
    now[0] += 10
  with clock.paused("checkpoint"):
    now[0] += 1
  now[0] += 2
  assert clock.lap()[0] == 5 and (clock.apart["eval"], clock.apart["checkpoint"]) == (10, 1)
  now[0] += 4
  assert clock.lap()[0] == 4  # a pause counts for its own lap alone


def test_perplexity_is_of_nats():
  sums = {"nats": 4.0, "tokens": 2.0, "text_nats": 4.0, "bytes": 0}
  assert summary(sums) == pytest.approx({"val/loss": 2.0, "val/ppl": 7.389056})
