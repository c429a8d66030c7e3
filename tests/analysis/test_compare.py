"""Tests of comparing two networks: the numbers of each, and parts that only one network has."""

import pytest

from hc_jax.analysis import compare, page, parts, report
from tests.analysis.test_report import column, network, residual

NAMES = ("one", "two")


def look(sites, losses):
  found = [*parts.look(sites)[0]] if sites else []
  rows = [{"step": step, "val/loss": loss} for step, loss in losses.items()]
  return {part.name: part for part in [*found, parts.loss_part(rows)]}


def compared(first, second, reason=""):
  found, skipped = compare.compare_parts(NAMES, (first, second), reason)
  return {part.name: part for part in found}, skipped


def test_every_number_is_that_of_its_own_network():
  first, second = look(network(4), {0: 5.0, 10: 4.0}), look(network(2, n=2), {0: 6.0, 5: 3.5})
  found, skipped = compared(first, second)
  assert not skipped
  loss = found["compare_loss"].table
  assert column(loss, "step") == [0, 5, 10]
  assert column(loss, "one, validation") == [5, None, 4]
  assert column(loss, "two, validation") == [6, 3.5, None]
  gains = found["compare_gains"].table
  own = [column(one["gains"].table, "composite_norm_fwd_mean") for one in (first, second)]
  assert column(gains, "one, forward, composite norm") == own[0]
  assert column(gains, "two, forward, composite norm") == [*own[1], None, None]
  similar = found["compare_similarity"].table
  assert column(gains, "site") == [0, 1, 2, 3]
  assert column(similar, "site") == [1, 2, 3]  # the first site has none before it
  assert column(similar, "one, median") == column(first["similarity"].table, "median")
  rows = {row[0]: row for row in found["findings"].table.rows}
  for i, one in enumerate((first, second), 1):
    of = {row[0]: row[1] for row in one["findings"].table.rows}
    assert rows["embedding weight"][i] == of["embedding weight"]


def test_what_one_of_them_does_not_have_is_left_out(tmp_path):
  found, skipped = compared(look(residual(), {0: 5.0}), look(network(), {0: 5.0}), "other texts")
  assert skipped == {"compare_loss": "other texts"}
  assert all(name.startswith("two") for name in found["compare_gains"].table.columns[1:])
  found, skipped = compared(look({}, {0: 5.0}), look({}, {0: 4.0}))
  assert list(found) == ["compare_loss"] and {"compare_gains"} < set(skipped)


def test_it_is_drawn_and_has_a_page(tmp_path):
  found, _ = compared(look(network(4), {0: 5.0}), look(residual(), {0: 6.0}))
  report.write_parts(list(found.values()), tmp_path, formats=("svg",), log=lambda _: None)
  assert "two, validation" in (tmp_path / "compare_loss.svg").read_text()
  views = page.views_of(list(found.values()))
  assert [view["id"] for view in views] == ["compare_loss", "compare_gains", "compare_similarity"]
  value = column(found["compare_gains"].table, "one, backward, composite Amax gain")[2]
  assert views[1]["options"][0]["series"][1]["y"][2] == pytest.approx(value, rel=1e-5)
  assert "<th" in (tmp_path / "analysis.html").read_text()
