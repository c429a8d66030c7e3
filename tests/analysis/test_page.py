"""Tests of the page: a self-contained HTML file with the numbers of the CSV files."""

import csv
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from hc_jax.analysis import page, parts, report
from tests.analysis.test_report import N, network, residual

VOID = {"meta", "link", "br", "input"}
TITLE = "</script> & <b>"


class Reader(html.parser.HTMLParser):
  """An HTML parser that keeps open elements, addresses, ids, and the text of the data."""

  def __init__(self):
    super().__init__()
    self.open, self.tags, self.addresses, self.data, self.ids = [], [], [], "", []

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    found = dict(attributes)
    self.addresses += [found[key] for key in ("src", "href", "data", "action") if key in found]
    self.ids += [found["id"]] if "id" in found else []
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag, f"</{tag}> closes another element"

  def handle_data(self, data):
    if self.open[-1:] == ["script"] and "data" in self.ids and not self.data:
      self.data = data


def ablated(sites):
  kl = np.random.default_rng(1).uniform(1e-3, 1, (len(sites), N))
  kl[0, -1] = np.nan
  return parts.ablation_part(sites, kl)


LOSS = [{"step": 0, "val/loss": 5.5}, {"step": 10, "train/loss": 4.25}, {"step": 20}]


TELEMETRY = [{"step": 5, "hc/amax_fwd": 1.25}, {"step": 9, "hc/amax_fwd": 2.5, "hc/offdiag": 0.5}]


def read(text):
  reader = Reader()
  reader.feed(text)
  reader.close()
  assert reader.open == []
  return reader


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  out, sites = tmp_path_factory.mktemp("page"), network()
  found, skipped = parts.look(sites, TITLE)
  found = [parts.loss_part(LOSS), parts.telemetry_part(TELEMETRY), ablated(sites), *found]
  for part in found:
    part.table.write_csv(out / f"{part.name}.csv")
  return out, page.render(found, TITLE, {"a thing": "1 < 2"})


def test_it_is_html_that_needs_nothing_else(written):
  text = written[1]
  reader = read(text)
  assert "http:" not in text and "https:" not in text and "//cdn" not in text
  assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", text)
  assert all(address.startswith("#") for address in reader.addresses)
  views = json.loads(reader.data)
  assert {a[1:] for a in reader.addresses} == {"findings", *(view["id"] for view in views)}
  assert [view["id"] for view in views] == [v for v in page.VIEWS if "compare" not in v]
  assert len(text.encode()) < page.MAX_BYTES
  assert "&lt;/script&gt; &amp; &lt;b&gt;" in text and "1 &lt; 2" in text
  assert "@" not in re.sub(r"@media", "", text.split("<script")[0])


def rows_of(folder, name):
  with open(folder / f"{name}.csv", newline="") as file:
    return list(csv.DictReader(file))


def six(text):
  return float(f"{float(text):.6g}")


def test_its_numbers_are_those_of_the_csv_files(written):
  folder, text = written
  views = {view["id"]: view for view in json.loads(read(text).data)}
  for name, keys in (
    ("unfolded", ("network", "input", "source", "weight")),
    ("unfolded_streams", ("stream", "before", "source", "weight")),
    ("stream_ablation", (None, "stream", "site", "kl")),
  ):
    count, options = 0, {option["name"]: option for option in views[name]["options"]}
    sites = list(network())
    for row in rows_of(folder, name):
      option = options[
        {"unfolded_streams": "stream {}"}.get(name, "{}").format(row.get(keys[0], "KL"))
      ]
      i, j = int(row[keys[1]]), row[keys[2]]
      j = sites.index(j) if j in sites else int(j) + 1  # the embedding is -1, and comes first
      assert option["values"][i][j] == six(row[keys[3]])
      assert option["rows"][i] and option["columns"][j]
      count += 1
    values = [v for option in options.values() for row in option["values"] for v in row]
    assert count == sum(v is not None for v in values) > 10
  for name, option, series, column in (
    ("similarity", 0, 1, "median"),
    ("gains", 2, 0, "composite_amax_fwd_mean"),
    ("gains", 4, 0, "identity_distance_mean"),
    ("streams", 0, 2, "energy_share_2"),
    ("loss", 0, 1, "val/loss"),
    ("telemetry", 0, 0, "hc/amax_fwd"),
    ("telemetry", 1, 0, "hc/offdiag"),
  ):
    shown = views[name]["options"][option]["series"][series]["y"]
    assert shown == [six(row[column]) if row[column] else None for row in rows_of(folder, name)]
  loss, gains = views["loss"]["options"][0], views["gains"]["options"][2]
  assert loss["positions"] == [0, 10] and loss["x"] == ["step 0", "step 10"]
  assert (loss["label"], loss["across"]) == ("loss (nats per token)", "optimizer step")
  assert "positions" not in gains and gains["x"][:2] == ["0 attn", "0 ffn"]
  mixes = [row for row in rows_of(folder, "connections") if row["map"] == "mix"]
  shown = views["connections"]["options"][0]["values"]
  assert shown[1][2] == six(next(r["mean"] for r in mixes if (r["row"], r["column"]) == ("1", "2")))
  own = rows_of(folder, "findings")[1]
  assert f'<td class="own">{float(own["this network"]):.4g}</td>' in text


def test_a_cell_says_what_goes_where(written):
  view = json.loads(read(written[1]).data)[0]
  mean = view["options"][0]
  assert mean["columns"][:2] == ["embedding", "output of site 0 (0 attn)"]
  assert mean["rows"][1] == "input of site 1 (0 ffn)" and mean["rows"][-1] == "mean of the streams"
  assert view["say"].format(c=mean["columns"][1], r=mean["rows"][1], v=1) == (
    "output of site 0 (0 attn) into input of site 1 (0 ffn): 1"
  )
  assert (mean["down"], mean["across"]) == (
    "input of site",
    "output of site (emb: the embedding)",
  )
  assert mean["columnTicks"][:3] == ["emb", "0", "1"] and mean["rowTicks"][0] == "0"
  assert sum(", token " in option["name"] for option in view["options"]) == 4


def test_a_page_that_is_too_large_leaves_out_digits_then_tokens(monkeypatch):
  found, _ = parts.look(network())
  full = page.render(found, "", {})
  fewer = page._render(found, "", {}, 4, True)
  monkeypatch.setattr(page, "MAX_BYTES", len(full.encode()))
  assert page.render(found, "", {}) == fewer
  monkeypatch.setattr(page, "MAX_BYTES", len(fewer.encode()))
  assert "token 0 of" in fewer and "token 0 of" not in page.render(found, "", {})


def test_a_residual_network_has_a_page(tmp_path):
  report.write_report(residual(), tmp_path, log=lambda _: None, formats=("svg",))
  text = (tmp_path / "analysis.html").read_text()
  assert [view["id"] for view in json.loads(read(text).data)] == ["similarity"]
  assert "one stream, all weights one" in text


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_is_javascript(tmp_path):
  path = tmp_path / "page.js"
  path.write_text(page._file("page.js"))
  subprocess.run(["node", "--check", path], check=True, timeout=60)


def test_a_name_cannot_end_the_script():
  (site,) = list(network(1, dynamic=False).values())
  # Both sites have the same short name, so the page shows their full names.
  found = parts.look({"</script><b>": site, "stack/</script><b>": site})[0]
  views = json.loads(read(page.render(found, "", {})).data)
  gains = next(view for view in views if view["id"] == "gains")
  assert gains["options"][0]["x"] == ["</script><b>", "stack/</script><b>"]
