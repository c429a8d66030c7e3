"""Tests of the report on a model: its figures, their tables, and parts that are left out."""

import csv
import importlib
import pathlib
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import hc_jax as hc
from hc_jax.analysis import Site, measures, plots, report, unfold
from hc_jax.analysis import parts as parts_module

N, TOKENS, WIDTH = 3, 5, 4


def network(count=4, dynamic=True, norm=False, n=N):
  """Returns the sites of a random network, computed here."""
  rng = np.random.default_rng(0)
  lead = (2, TOKENS) if dynamic else ()
  streams = np.repeat(rng.normal(size=(2, TOKENS, 1, WIDTH)), n, axis=-2)
  sites = {}
  for k in range(count):
    maps = {"read": (1, n), "write": (n, 1), "mix": (n, n)}
    coefs = hc.Coefs(**{name: rng.normal(size=(*lead, *shape)) for name, shape in maps.items()})
    h = (coefs.read @ streams)[..., 0, :]
    y = rng.normal(size=h.shape)
    sites[f"stack/layer_{k // 2}/{('attn', 'ffn')[k % 2]}_connection"] = Site(coefs, streams, h, y)
    streams = coefs.mix @ streams + coefs.write @ y[..., None, :]
    if norm:
      streams = streams / np.linalg.norm(streams, axis=-1, keepdims=True)
  return sites


def residual(count=4):
  ones = np.ones((1, 1))
  coefs = hc.Coefs(read=ones, write=ones, mix=None)
  x = np.random.default_rng(0).normal(size=(count, TOKENS, 1, WIDTH))
  return {f"site_{k}": Site(coefs, x[k], x[k, :, 0], x[k, :, 0]) for k in range(count)}


def parts_of(sites):
  parts, skipped = parts_module.look(sites)
  return {part.name: part for part in parts}, skipped


def column(table, name):
  return [row[list(table.columns).index(name)] for row in table.rows]


def test_every_figure_and_its_numbers_are_written(tmp_path):
  said = []
  sites = network(2, n=2)
  paths = report.write_report(sites, tmp_path, "a title", said.append, ("svg",))
  names = {"similarity", "connections", "weights", "gains", "streams"}
  names |= {"unfolded", "unfolded_streams"}
  files = {f"{n}.{e}" for n in names for e in ("svg", "csv")}
  files |= {"findings.csv", "findings.md", "analysis.html"}
  assert {p.name for p in tmp_path.iterdir()} == files
  assert len(paths) == len(files)
  for name in names:
    assert "a title" in (tmp_path / f"{name}.svg").read_text()
    with open(tmp_path / f"{name}.csv", newline="") as file:
      head, *rows = csv.reader(file)
    assert rows and all(len(row) == len(head) for row in rows)
  text = "\n".join(said)
  assert "max_i sum_j |P_ij|" in text and "max_i |sum_j P_ij|" in text
  assert "composite" not in text.split("amax_fwd")[0] and "0 ffn" in text
  assert max(map(len, text.split("min(near, first)")[1].splitlines())) <= 100
  assert "| parallel pairs |" in (tmp_path / "findings.md").read_text()


def test_streams_are_drawn_where_each_site_has_an_empty_slot():
  sites = network(2)
  for site in sites.values():
    site.streams[..., -1, :] = 0
  part = parts_of(sites)[0]["streams"]
  assert part.draw() and column(part.table, "stream_cosine_median") == [None, None]


@pytest.mark.slow
def test_drawing_leaves_the_backend_alone(tmp_path, monkeypatch):
  """Pyplot would hide a notebook's later figures, and keep every figure in memory."""
  monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # makes importing it fail
  monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
  importlib.reload(plots)
  report.write_report(network(2, n=2), tmp_path, log=lambda line: None, formats=("png",))
  assert matplotlib.rcParams["backend"] == "svg"
  assert (tmp_path / "gains.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_is_saved_in_every_format(tmp_path):
  paths = plots.save(plots.loss_curve([]), tmp_path / "loss")
  heads = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
  assert [p.rsplit(".")[-1] for p in paths] == list(heads)
  for path, head in zip(paths, heads.values(), strict=True):
    assert pathlib.Path(path).read_bytes().startswith(head)


def test_the_tables_hold_the_numbers():
  sites = network()
  parts, skipped = parts_of(sites)
  assert not skipped
  first, last = next(iter(sites.values())), list(sites.values())[-1]
  rows = np.abs(last.coefs.mix.sum(-1)).max(-1)
  table = parts["gains"].table
  for name in ("amax_fwd", "composite_amax_fwd"):  # the last site's composite is its own mix
    assert column(table, f"{name}_mean")[-1] == pytest.approx(rows.mean())
    assert column(table, f"{name}_max")[-1] == pytest.approx(rows.max())
  product = np.eye(N)
  for site in sites.values():
    product = site.coefs.mix @ product
  want = np.abs(product).sum(-2).max(-1).mean()
  assert column(table, "composite_norm_bwd_mean")[0] == pytest.approx(want)

  weights = parts["weights"].table
  at = [i for i, r in enumerate(weights.rows) if r[:4] == (next(iter(sites)), "mix", 0, 2)]
  assert column(weights, "variance")[at[0]] == pytest.approx(first.coefs.mix[..., 0, 2].var())
  assert column(parts["streams"].table, "stream_cosine")[0] == pytest.approx(1)

  found = [row for row in parts["unfolded"].table.rows if row[0].startswith("this network, mean")]
  matrix = unfold.unfold([site.coefs for site in sites.values()]).mean((0, 1))
  for _, i, j, value in found:
    assert value == pytest.approx(matrix[i, j + 1] / (N if i == 4 else 1))  # -1: the embedding
  assert len(found) == 15


def test_static_maps_have_no_spread():
  parts, skipped = parts_of(network(dynamic=False))
  assert "static" in skipped["weights"] and list(skipped) == ["weights"]
  networks = {row[0] for row in parts["unfolded"].table.rows}
  assert networks == {"this network", "Pre-Norm", "Post-Norm", "PTB", "two-hop"}


def test_a_residual_network_has_only_its_similarity():
  parts, skipped = parts_of(residual())
  assert list(parts) == ["similarity"]
  assert {"connections", "gains", "unfolded"} <= set(skipped)
  assert report.describe(residual()) == "plain residual"
  assert report.describe(network()) == "n = 3, dynamic"
  assert report.describe(network(dynamic=False, n=2)) == "n = 2, static"


def test_fractions_are_drawn_in_blocks():
  """Cells above the diagonal blocks are empty; within a block all cells are drawn."""
  matrix = np.kron(np.tril(np.ones((3, 3))), np.ones((2, 2)))
  figure = plots.unfolded_matrices({"own": matrix, "other": np.ones((3, 3))}, fractions=2)
  own, other = [ax.images[0].get_array().filled(np.nan) for ax in figure.axes[:2]]
  np.testing.assert_array_equal(np.isfinite(own), matrix > 0)
  np.testing.assert_array_equal(np.isfinite(other), np.tril(np.ones((3, 3))) > 0)
  streams = plots.stream_matrices(np.ones((2, 3, 6)), fractions=2).axes[0].images[0]
  assert np.isfinite(streams.get_array().filled(np.nan)).sum(-1).tolist() == [2, 4, 6]


@pytest.mark.parametrize("count, step", [(3, 1), (30, 3)])
def test_sites_count_from_zero_and_the_embedding_has_no_number(count, step):
  square = np.tril(np.ones((count + 1, count + 1)))
  ax = plots.unfolded_matrices({"own": square}).axes[0]
  x, y = (
    [text.get_text() for text in texts] for texts in (ax.get_xticklabels(), ax.get_yticklabels())
  )
  assert x[0] == "emb" and y[0] == "0" and y[-1] == "end"
  assert x[-1] == y[-2] == str(step * ((count - 1) // step))
  # Site k is row k and column k + 1.
  assert ax.get_xticks()[-1] - 1 == ax.get_yticks()[-2] == int(x[-1])


def test_what_does_not_unfold_is_left_out_and_says_why():
  """A norm between the sites makes the matrices wrong, and the rebuilt inputs show it."""
  assert measures.unfolding(measures.some_tokens(list(network().values()), 7))[2] < 1e-12
  parts, skipped = parts_of(network(norm=True))
  assert "unfolded" not in parts and "off by" in skipped["unfolded"]
  sites = network()
  uneven = {k: Site(s.coefs, s.streams + np.eye(N, WIDTH), *_rest(s)) for k, s in sites.items()}
  assert "copies" in parts_of(uneven)[1]["unfolded"]
  unwritten = {k: Site(s.coefs, s.streams, s.branch_input, None) for k, s in sites.items()}
  assert "not written" in parts_of(unwritten)[1]["unfolded"]


def _rest(site):
  return site.branch_input, site.branch_output


def test_what_is_left_out_is_said_with_the_reason(tmp_path):
  said = []
  report.write_report(residual(), tmp_path, "", said.append, ("svg",), left_out={"a b": "no c"})
  assert "no a b: no c" in said and any(line.startswith("no gains: every site") for line in said)
  assert "<li>a b: no c</li>" in (tmp_path / "analysis.html").read_text()


def test_telemetry_is_drawn_if_there_is_any():
  assert parts_module.telemetry_part([{"step": 1, "train/loss": 2.0}]) is None
  rows = [{"step": 0}, {"step": 5, "hc/amax_fwd": 1.5, "hc/energy_share_0": 0.25}]
  rows.append({"step": 9, "hc/amax_fwd": 2.5, "hc/offdiag": 0.5, "train/loss": 1.0})
  part = parts_module.telemetry_part(rows)
  assert part.table.columns == ("step", "hc/amax_fwd", "hc/energy_share_0", "hc/offdiag")
  assert part.table.rows == [[5, 1.5, 0.25, None], [9, 2.5, None, 0.5]]
  gains, energy, maps = part.draw().axes
  assert gains.lines[0].get_xydata().tolist() == [[5, 1.5], [9, 2.5]]
  assert [len(ax.lines) for ax in (gains, energy, maps)] == [1, 1, 1]


def test_numbers_are_read_on_their_cells():
  values = np.linspace(-1, 1, 9).reshape(3, 3)
  kl = np.logspace(-4, 0.3, 9).reshape(3, 3)
  drawn = [
    plots.unfolded_matrices({"a": values}, np.abs(values)),
    plots.stream_ablation(["a", "b", "c"], kl),
  ]
  for figure in drawn:
    for ax in (ax for ax in figure.axes if ax.images and ax.texts):
      image, count = ax.images[0], 0
      for text in ax.texts:
        x, y = text.get_position()
        cell = image.to_rgba(image.get_array())[int(y), int(x), :3]
        light, dark = sorted(map(_luminance, (cell, to_rgb(text.get_color()))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, text
        count += 1
      assert count >= 6


def _luminance(color):
  linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in color]
  return np.dot((0.2126, 0.7152, 0.0722), linear)
